// Node's `ws` as the peer of the suite: `serve PORT`, or `ask URL NAME` for all cases of its server.
const { WebSocket, WebSocketServer } = require("ws");
const [, , what, place, name] = process.argv;
const options = { perMessageDeflate: { threshold: 0 }, maxPayload: 256 * 1024 * 1024 };

const echo = (socket) => {
  socket.on("message", (data, binary) => socket.send(data, { binary }));
  socket.on("error", () => {}); // what it is given by the suite
};

const ask = (path, use) => new Promise((done) => {
  const socket = new WebSocket(place + path, options);
  use(socket);
  socket.on("close", done);
});

if (what === "serve") {
  new WebSocketServer({ host: "127.0.0.1", port: +place, ...options }).on("connection", echo);
} else {
  (async () => {
    let count = 0;
    await ask("/getCaseCount", (socket) => socket.on("message", (data) => { count = +data; }));
    for (let number = 1; number <= count; number++) await ask(`/runCase?case=${number}&agent=${name}`, echo);
    await ask(`/updateReports?agent=${name}`, echo);
  })();
}
