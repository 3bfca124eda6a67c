-- The access phase of nginx + Lua: a token from the key's bucket in Redis, over cosockets that are kept alive.

local found, redis = pcall(require, "resty.redis") -- OpenResty's name of it
if not found then
  redis = require "nginx.redis" -- Debian's, from lua-nginx-redis
end

local limit = {}

function limit.take(redis_port, script)
  local connection = redis:new()
  connection:set_timeout(1000)
  local connected = connection:connect("127.0.0.1", redis_port)
  if not connected then
    return ngx.exit(503)
  end
  local account = "tokenlb:{" .. ngx.md5(ngx.var.http_authorization or "") .. "}"
  local reply = connection:evalsha(script, 1, account)
  if not reply then
    return ngx.exit(503)
  end
  connection:set_keepalive(60000, 1024)
  if not reply[1] then
    return ngx.exit(401)
  end
  local header, capacity, left = ngx.header, reply[3], reply[5]
  header["X-RateLimit-Limit"] = capacity
  header["X-RateLimit-Remaining"] = left
  header["X-RateLimit-Reset"] = reply[6]
  header["RateLimit-Policy"] = '"default";q=' .. capacity .. ";w=" .. math.ceil(capacity / reply[4])
  header["RateLimit"] = '"default";r=' .. left .. ";t=" .. reply[6]
  if reply[1] == 0 then
    return ngx.exit(429)
  end
  ngx.var.consumer = reply[2]
end

return limit
