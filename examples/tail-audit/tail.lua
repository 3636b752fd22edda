-- Follows an audit file as `tail -F` does, through rotation too, and prints a line for people for each refusal.
--
--   lattice lua tail.lua FILE [WORD]     WORD: only lines with this text
local format, loop, reader, uv = require("lattice.audit.format"), require("lattice.loop"), require("lattice.audit.reader"),
  require("luv")

local path, word = arg[1], arg[2]
if not path then
  io.stderr:write("usage: lattice lua tail.lua FILE [WORD]\n")
  os.exit(2)
end
io.stdout:setvbuf("line")

local fd, inode, at, rest = nil, nil, 0, ""

local function show(line)
  local record, why = reader.parse(line)
  if not record then
    print("no record: " .. why)
  elseif record.kind == "loss" or not record.passed and record.kind == "verdict" then
    local text = format.line(record)
    if not word or text:find(word, 1, true) then print(text) end
  end
end

-- What was appended since the last look; only whole lines are shown.
local function drain()
  while true do
    local data = uv.fs_read(fd, 1 << 16, at)
    if not data or data == "" then return end
    at = at + #data
    rest = rest .. data
    for line in rest:gmatch("([^\n]*)\n") do show(line) end
    rest = rest:match("[^\n]*$")
  end
end

local function look()
  local stat = uv.fs_stat(path)
  if fd then drain() end -- the end of a file that was renamed away, too
  if not stat or stat.ino == inode then return end
  if fd then uv.fs_close(fd) end
  fd, inode, at, rest = uv.fs_open(path, "r", 0), stat.ino, 0, ""
  if fd then drain() end
end

-- The folder is watched, so a new file of that name is seen; the timer is for file systems that tell nothing.
local watch = uv.new_fs_event()
assert(watch:start(path:match("^(.*/)[^/]*$") or ".", {}, look))
loop.timer(1000, look, 1000)
loop.signal("SIGINT", loop.stop)
loop.signal("SIGTERM", loop.stop)
look()
print("following " .. path)
loop.run()
