-- Where the control socket lies: its directory, and whether what lies there may be replaced. A socket that nobody listens
-- on is a dead agent's and goes; one that answers is a live agent's and stays.
local uv = require("luv")
local sys = require("lattice.sys")

local M = {}

local STICKY, OTHERS_WRITE = 512, 2 -- S_ISVTX, S_IWOTH
local LONGEST = 107                 -- sun_path
local OWN = "/run/lattice"          -- a service manager makes this one with a mode of its own; it is ours all the same

local function trouble(what, why) return nil, ("%s: %s"):format(what, why) end

-- Whether there is nothing but perhaps the socket in it: then it is one of ours, of an agent that died.
local function holds_only(dir, name)
  local scan = uv.fs_scandir(dir)
  while scan do
    local entry = uv.fs_scandir_next(scan)
    if not entry then return true end
    if entry ~= name then return false end
  end
  return false
end

-- 0750 and of the group where we make it; one that is there must not be everybody's. Its path, if it is ours.
local function directory(path, gid)
  local dir, name = path:match("^(.*)/([^/]*)$")
  if dir == "" then dir = "/" end
  local there = uv.fs_stat(dir)
  local ours = not there
  if not there then
    local ok, why = uv.fs_mkdir(dir, 488) -- 0750
    if not ok then return trouble("the directory of the control socket", why) end
  elseif there.type ~= "directory" then
    return trouble(dir, "is no directory")
  elseif there.mode & OTHERS_WRITE ~= 0 and there.mode & STICKY == 0 then
    return trouble(dir, "everybody may write there: a control socket is not safe in it (chmod o-w " .. dir .. ")")
  else
    ours = there.uid == sys.uid() and there.mode & STICKY == 0 and (dir == OWN or holds_only(dir, name))
  end
  if ours and (gid or not there) then
    local ok, why = uv.fs_chown(dir, sys.uid(), gid or -1)
    if ok then ok, why = uv.fs_chmod(dir, 488) end
    if not ok then return trouble(dir, why) end
  end
  return true
end

-- done(true) when nobody listens there.
local function probe(path, done)
  local pipe = uv.new_pipe(false)
  local ok, why, code = pipe:connect(path, function(err)
    pipe:close()
    done(err == "ECONNREFUSED" or err == "ENOENT", err)
  end)
  if not ok then
    pipe:close()
    done(false, code or why)
  end
end

--- Makes room for a socket at the path. done(true), or done(nil, error, code).
---@param path string
---@param gid integer?  group that may reach it
---@param done fun(ok: true?, err: string?, code: string?)
function M.prepare(path, gid, done)
  if path:sub(1, 1) ~= "/" or #path > LONGEST then
    return done(nil, ("%s: a control socket has an absolute path of at most %d bytes"):format(path, LONGEST),
      "EINVAL")
  end
  local ok, why = directory(path, gid)
  if not ok then return done(nil, why, "EACCES") end
  local there = uv.fs_lstat(path)
  if not there then return done(true) end
  if there.type ~= "socket" then
    return done(nil, path .. ": is there already and is no socket; remove it, or give another control path", "EEXIST")
  end
  probe(path, function(dead, err)
    if not dead then
      return done(nil, ("%s: another agent answers there%s; stop it (lattice --socket %s down), or give this one "
        .. "another control path"):format(path, err and " (" .. err .. ")" or "", path), "EADDRINUSE")
    end
    local now = uv.fs_lstat(path)
    if now and now.ino == there.ino and now.dev == there.dev then uv.fs_unlink(path) end
    done(true)
  end)
end

--- Gives a socket that was just bound, and on which nobody listens yet, its owner and mode.
---@param path string
---@param gid integer?
---@param everybody boolean?  all may connect: who listens judges them
---@return true?
---@return string? err
function M.protect(path, gid, everybody)
  local ok, why = uv.fs_chown(path, sys.uid(), gid or -1)
  if ok then ok, why = uv.fs_chmod(path, everybody and 438 or gid and 432 or 384) end -- 0666, 0660, 0600
  if not ok then return trouble(path, why) end
  return true
end

--- Lets everybody pass through the socket's directory to it, or no longer, where the directory is ours: nobody may list it.
---@param path string
---@param everybody boolean
---@return true?
---@return string? err
function M.pass(path, everybody)
  local dir, name = path:match("^(.*)/([^/]*)$")
  if dir == "" then dir = "/" end
  local there = uv.fs_stat(dir)
  if not there or there.uid ~= sys.uid() or there.mode & STICKY ~= 0 then return true end
  if dir ~= OWN and not holds_only(dir, name) then return true end
  local ok, why = uv.fs_chmod(dir, everybody and 489 or 488) -- 0751, 0750
  if not ok then return trouble(dir, why) end
  return true
end

--- What the path is now, to tell later whether it is still the same.
---@param path string
---@return string?
function M.identity(path)
  local there = uv.fs_lstat(path)
  return there and ("%d:%d"):format(there.dev, there.ino)
end

--- Removes the socket if it is still that one. The directory stays: a service manager may have made it.
---@param path string
---@param identity string?
function M.remove(path, identity)
  if identity and M.identity(path) == identity then uv.fs_unlink(path) end
end

return M
