-- Sends the prepared requests in turn and prints what wrk measured as one line of JSON.
-- The only argument is a file of whole requests, each ended by a NUL byte (bench/load.py writes it).

local requests = {}
local last = 0
local current = 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  for text in file:read("*a"):gmatch("[^%z]+") do
    last = last + 1
    requests[last] = text
  end
  file:close()
end

function request()
  current = current % last + 1
  return requests[current]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "status": %d,' ..
    ' "connect": %d, "read": %d, "write": %d, "timeout": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect, errors.read, errors.write, errors.timeout))
end
