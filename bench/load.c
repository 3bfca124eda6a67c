/* The load and the origin servers of bench/run.py in one process and one epoll loop.
 *
 *     load CONTROL-PORT ORIGIN-PORT NAME [ORIGIN-PORT NAME ...]
 *
 * It has to be cheaper than nginx as a proxy, which it is to keep busy from one core: four system calls a request (one
 * recv and one send as client, the same as origin) and no change of process between them.  bench/load.py compiles it.
 *
 * Origin: GET /bytes/N is answered with N bytes (at most MAX_BODY), any other request with "Server NAME answer".
 * Control, one line each over TCP, one run at a time:
 *     run PORT CONNECTIONS FILE    connect to 127.0.0.1:PORT; each connection sends one request after another, taken
 *                                  in turn from FILE (whole requests, each ended by a NUL byte)
 *     tls MODE                     for the next runs: 0 plain, 1 with TLS, 2 with TLS and a new connection and full
 *                                  handshake for each request; 1 and 2 only if compiled with -DWITH_TLS
 *     reset                        forget what was counted
 *     stop                         close the connections and answer with the counts as one line of JSON
 * The end of the control connection stops the run as well.  Without a run there is only the origin.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/ssl.h>
#endif

#define HEAD_BYTES 8192            /* of a request at the origin, of a response at the client */
#define MAX_BODY (64L << 20)
#define DISCARD_BYTES (1L << 20)   /* of a body, in one recv */
#define TIMEOUT_US 10000000L       /* without an answer for that long: counted as a timeout */
#define EXACT 1024                 /* latencies below this many microseconds have a bucket each, */
#define PARTS 512                  /* and above it, each power of two has this many */
#define BUCKETS (EXACT + 40 * PARTS)
#define UNTIL_CLOSE INT64_MAX      /* left of a body whose length is not known */

enum kind { ORIGIN_LISTENER, ORIGIN, CONTROL_LISTENER, CONTROL, CLIENT };

struct connection {
    enum kind kind;
    int fd;                        /* -1: closed */
    const char *name;              /* origin: which server */
    int length;                    /* bytes in data */
    int64_t left;                  /* client: of the body to read; origin: of the body to send */
    int closing;                   /* close after this answer */
    int64_t sent_us;               /* client: when the request was sent; 0: never */
    void *tls;                     /* client: SSL, or NULL */
    char data[HEAD_BYTES + 1];
};

static int poll_fd, body_fd;
static struct connection *control, *clients;
static int client_count, client_port, tls_mode;
static char *requests;             /* the file */
static struct { const char *text; int length; } *request;
static int request_count, next_request;
static int64_t began_us, done, body_bytes, bad_status, bad_connect, bad_read;
static uint32_t latencies[BUCKETS];

static void fail(const char *what) { perror(what); exit(1); }

static int64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

static struct connection *watch(int fd, enum kind kind, const char *name) {
    struct connection *connection = calloc(1, sizeof *connection);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (!connection) fail("calloc");
    connection->kind = kind, connection->fd = fd, connection->name = name;
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
    return connection;
}

static void listen_on(int port, enum kind kind, const char *name) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) fail("listen");
    watch(fd, kind, name);
}

static void accept_one(struct connection *listener) {
    int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK), on = 1;
    if (fd < 0) return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    watch(fd, listener->kind == ORIGIN_LISTENER ? ORIGIN : CONTROL, listener->name);
}

/* ---- origin ---- */

static void origin_close(struct connection *one) {
    close(one->fd);
    free(one);  /* an epoll_wait reports a descriptor once, so nothing else points at it */
}

/* Send what is left of a body; wait for room where there is none.  0: the connection was closed. */
static int origin_send_body(struct connection *one) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
    while (one->left) {
        off_t offset = MAX_BODY - one->left;
        ssize_t sent = sendfile(one->fd, body_fd, &offset, one->left);
        if (sent > 0) { one->left -= sent; continue; }
        if (sent < 0 && errno != EAGAIN) return origin_close(one), 0;
        event.events = EPOLLOUT;
        epoll_ctl(poll_fd, EPOLL_CTL_MOD, one->fd, &event);
        return 1;
    }
    epoll_ctl(poll_fd, EPOLL_CTL_MOD, one->fd, &event);
    if (one->closing) return origin_close(one), 0;
    return 1;
}

static int origin_answer(struct connection *one, const char *head, const char *end) {
    /* The header of nginx's `return 200`, so that proxies have as much to parse. */
    static const char form[] = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
        "Content-Type: text/plain\r\nContent-Length: %ld\r\nConnection: %s\r\n\r\n";
    char answer[512];
    const char *line_end = memchr(head, '\r', end - head);
    int length;
    /* HTTP/1.0 (twisted.web.proxy): no keep-alive. */
    one->closing = line_end && line_end - head > 8 && line_end[-1] == '0';
    const char *connection = one->closing ? "close" : "keep-alive";
    if (!strncmp(head, "GET /bytes/", 11)) {
        long size = atol(head + 11);
        one->left = size < 0 ? 0 : size < MAX_BODY ? size : MAX_BODY;
        length = sprintf(answer, form, (long)one->left, connection);
    } else {
        length = sprintf(answer, form, (long)strlen(one->name) + 15, connection);
        length += sprintf(answer + length, "Server %s answer\n", one->name);
    }
    if (send(one->fd, answer, length, MSG_NOSIGNAL) != length) return origin_close(one), 0;
    if (one->left) return origin_send_body(one);
    if (one->closing) return origin_close(one), 0;
    return 1;
}

static void origin_ready(struct connection *one) {
    if (one->left) { origin_send_body(one); return; }
    ssize_t got = recv(one->fd, one->data + one->length, HEAD_BYTES - one->length, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { origin_close(one); return; }
    one->length += got;
    one->data[one->length] = 0;
    char *start = one->data, *stop = one->data + one->length, *end;
    while ((end = memmem(start, stop - start, "\r\n\r\n", 4))) {
        if (!origin_answer(one, start, end)) return;
        start = end + 4;
    }
    one->length = stop - start;
    memmove(one->data, start, one->length);
}

/* ---- client ---- */

#ifdef WITH_TLS
static SSL_CTX *tls_context;

/* The handshake, while nothing else is done. */
static int tls_connect(struct connection *one) {
    if (!tls_context && !(tls_context = SSL_CTX_new(TLS_client_method()))) fail("SSL_CTX_new");
    one->tls = SSL_new(tls_context);
    return one->tls && SSL_set_fd(one->tls, one->fd) == 1 && SSL_connect(one->tls) == 1;
}

static void tls_end(struct connection *one) {
    SSL_set_quiet_shutdown(one->tls, 1);
    SSL_free(one->tls);
}

static int tls_pending(struct connection *one) { return SSL_pending(one->tls); }
static ssize_t tls_send(struct connection *one, const char *data, int length) { return SSL_write(one->tls, data, length); }

static ssize_t tls_recv(struct connection *one, char *data, int length) {
    int got = SSL_read(one->tls, data, length), why = got > 0 ? 0 : SSL_get_error(one->tls, got);
    if (got > 0) return got;
    errno = why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? EAGAIN : ECONNRESET;
    return why == SSL_ERROR_ZERO_RETURN ? 0 : -1;
}
#else
static int tls_connect(struct connection *one) { (void)one; return 0; }
static void tls_end(struct connection *one) { (void)one; }
static int tls_pending(struct connection *one) { (void)one; return 0; }
static ssize_t tls_send(struct connection *one, const char *data, int length) { return send(one->fd, data, length, 0); }
static ssize_t tls_recv(struct connection *one, char *data, int length) { return recv(one->fd, data, length, 0); }
#endif

static void client_close(struct connection *one) {
    if (one->tls) tls_end(one);
    one->tls = NULL;
    if (one->fd >= 0) close(one->fd);
    one->fd = -1;
}

static void client_send(struct connection *one) {
    one->length = 0, one->left = 0, one->closing = 0;
    one->sent_us = now_us();
    int length = request[next_request].length;
    const char *text = request[next_request].text;
    ssize_t sent = one->tls ? tls_send(one, text, length) : send(one->fd, text, length, MSG_NOSIGNAL);
    if (sent != length) bad_read++, client_close(one);
    if (++next_request == request_count) next_request = 0;
}

/* Connect and send the first request.  A connection that cannot be opened is given up. */
static void client_open(struct connection *one) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(client_port)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
    int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    one->kind = CLIENT;
    one->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (one->fd < 0 || connect(one->fd, (struct sockaddr *)&address, sizeof address)) {
        bad_connect++;
        client_close(one);
        return;
    }
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (tls_mode && !tls_connect(one)) {
        bad_connect++;
        client_close(one);
        return;
    }
    fcntl(one->fd, F_SETFL, O_NONBLOCK);
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, one->fd, &event)) fail("epoll_ctl");
    client_send(one);
}

static void client_again(struct connection *one, int64_t *errors) {
    if (errors) ++*errors;
    client_close(one);
    client_open(one);
}

static void client_answered(struct connection *one) {
    int64_t took = now_us() - one->sent_us;
    int shift = took < EXACT ? 0 : 54 - __builtin_clzl(took);  /* took >> shift is then from PARTS to 2 * PARTS - 1 */
    int64_t bucket = took < EXACT ? took : EXACT + (shift - 1) * PARTS + (took >> shift) - PARTS;
    latencies[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    done++;
    if (one->closing || tls_mode == 2) client_again(one, NULL);
    else client_send(one);
}

/* Read the head: the status, how long the body is, whether the connection is closed after it.  0: not understood. */
static int client_head(struct connection *one, char *end) {
    if (strncmp(one->data, "HTTP/1.", 7) || end - one->data < 12) return 0;
    if (one->data[9] > '3') bad_status++;
    one->left = UNTIL_CLOSE;
    for (char *line = one->data; (line = memchr(line, '\n', end - line)); ) {
        line++;
        if ((*line | 32) == 'c') {
            if (!strncasecmp(line, "content-length:", 15)) one->left = atoll(line + 15);
            else if (!strncasecmp(line, "connection: close", 17)) one->closing = 1;
        } else if ((*line | 32) == 't' && !strncasecmp(line, "transfer-encoding:", 18)) return 0;
    }
    return 1;
}

static void client_ready(struct connection *one) {
    ssize_t got;
    if (one->tls) {
        static char dropped[65536];
        got = one->left ? tls_recv(one, dropped, one->left < 65536 ? one->left : 65536)
                        : tls_recv(one, one->data + one->length, HEAD_BYTES - one->length);
    } else if (one->left) {
        /* MSG_TRUNC throws the bytes away without copying them: the clients must cost little. */
        int64_t most = one->left < DISCARD_BYTES ? one->left : DISCARD_BYTES;
        got = recv(one->fd, NULL, most, MSG_TRUNC);
    } else {
        got = recv(one->fd, one->data + one->length, HEAD_BYTES - one->length, 0);
    }
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        if (one->left != UNTIL_CLOSE) { client_again(one, &bad_read); return; }
        one->closing = 1;
        client_answered(one);
        return;
    }
    if (!one->left) {
        one->length += got;
        one->data[one->length] = 0;
        char *end = memmem(one->data, one->length, "\r\n\r\n", 4);
        if (!end) {
            if (one->length == HEAD_BYTES) client_again(one, &bad_read);
            return;
        }
        if (!client_head(one, end)) { client_again(one, &bad_read); return; }
        got = one->data + one->length - end - 4;  /* of the body */
    }
    body_bytes += got;
    if (one->left == UNTIL_CLOSE) return;
    one->left -= got;
    if (one->left < 0) client_again(one, &bad_read);
    else if (!one->left) client_answered(one);
}

/* ---- control ---- */

static void reset(void) {
    done = body_bytes = bad_status = bad_connect = bad_read = 0;
    memset(latencies, 0, sizeof latencies);
    began_us = now_us();
}

static int64_t quantile(double part) {
    int64_t rank = done * part;
    for (int i = 0; i < BUCKETS; i++)
        if ((rank -= latencies[i]) < 0)
            return i < EXACT ? i : (int64_t)((i - EXACT) % PARTS + PARTS) << ((i - EXACT) / PARTS + 1);
    return 0;
}

static void read_requests(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    free(requests), free(request);
    requests = calloc(1, size + 1), request = calloc(size + 1, sizeof *request);
    if (fread(requests, 1, size, file) != (size_t)size) fail(path);
    fclose(file);
    request_count = next_request = 0;
    for (char *text = requests; text < requests + size; text += strlen(text) + 1)
        request[request_count].text = text, request[request_count++].length = strlen(text);
    if (!request_count) fail("no requests");
}

static void stop_clients(void) {
    for (int i = 0; i < client_count; i++) client_close(&clients[i]);
}

static void run(char *line) {
    char path[4096];
    int count;
    if (sscanf(line, "run %d %d %4095[^\n]", &client_port, &count, path) != 3) fail("run");
    stop_clients();
    read_requests(path);
    free(clients);  /* no event points at them: those of the last run were closed before its answer */
    clients = calloc(count, sizeof *clients), client_count = count;
    reset();
    for (int i = 0; i < count; i++) client_open(&clients[i]);
}

static void report(int fd) {
    char text[512];
    int64_t now = now_us(), timeouts = 0;
    for (int i = 0; i < client_count; i++)
        if (clients[i].fd >= 0 && (now - clients[i].sent_us > TIMEOUT_US || clients[i].sent_us < began_us)) timeouts++;
    stop_clients();
    int length = sprintf(text, "{\"requests\": %ld, \"duration_us\": %ld, \"bytes\": %ld, \"p50_us\": %ld, \"p99_us\": %ld,"
        " \"status\": %ld, \"connect\": %ld, \"read\": %ld, \"timeout\": %ld}\n", done, now - began_us, body_bytes,
        quantile(0.5), quantile(0.99), bad_status, bad_connect, bad_read, timeouts);
    if (send(fd, text, length, MSG_NOSIGNAL) != length) perror("control");
}

static void control_ready(struct connection *one) {
    ssize_t got = recv(one->fd, one->data + one->length, HEAD_BYTES - one->length, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        if (one == control) stop_clients(), control = NULL;
        origin_close(one);
        return;
    }
    one->length += got;
    one->data[one->length] = 0;
    char *line = one->data, *end;
    for (; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        if (!strncmp(line, "run ", 4)) control = one, run(line);
        else if (!strncmp(line, "tls ", 4)) tls_mode = atoi(line + 4);
        else if (!strcmp(line, "reset")) reset();
        else if (!strcmp(line, "stop")) report(one->fd);
    }
    one->length = strlen(line);
    memmove(one->data, line, one->length + 1);
}

int main(int argc, char **argv) {
    struct epoll_event events[512];
    if (argc < 4 || argc % 2) { fprintf(stderr, "load CONTROL-PORT ORIGIN-PORT NAME ...\n"); return 2; }
    signal(SIGPIPE, SIG_IGN);  /* sendfile has no MSG_NOSIGNAL */
    poll_fd = epoll_create1(0);
    body_fd = memfd_create("body", 0);
    char *zeros = calloc(1, MAX_BODY);
    if (!zeros || write(body_fd, zeros, MAX_BODY) != MAX_BODY) fail("body");
    free(zeros);
    for (int i = 2; i < argc; i += 2) listen_on(atoi(argv[i]), ORIGIN_LISTENER, argv[i + 1]);
    listen_on(atoi(argv[1]), CONTROL_LISTENER, "control");
    for (;;) {
        int count = epoll_wait(poll_fd, events, 512, -1);
        for (int i = 0; i < count; i++) {
            struct connection *one = events[i].data.ptr;
            if (one->fd < 0) continue;
            switch (one->kind) {
            case ORIGIN_LISTENER: case CONTROL_LISTENER: accept_one(one); break;
            case ORIGIN: origin_ready(one); break;
            case CONTROL: control_ready(one); break;
            case CLIENT:
                do client_ready(one);
                while (one->fd >= 0 && one->tls && tls_pending(one));
                break;
            }
        }
    }
}
