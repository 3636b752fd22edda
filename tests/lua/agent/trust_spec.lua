-- A file that somebody else than root or the agent could write is not obeyed, nor one in a folder where somebody could put
-- another in its place.
local trust = require("lattice.agent.trust")

local agent = { uid = 7, gid = 8, mapped = true }

local function octal(text) return tonumber(text, 8) end

local function doubt(file, folder, self)
  local stats = { ["/etc/l/p.lua"] = file, ["/etc/l"] = folder or { mode = octal("755"), uid = 0, gid = 0 } }
  return trust.doubt(function(path) return stats[path] end, "/etc/l/p.lua", self or agent)
end

describe("a file that the agent obeys", function()
  it("is root's or the agent's own", function()
    for _, uid in ipairs({ 0, 7 }) do assert.is_nil(doubt({ mode = octal("644"), uid = uid, gid = 100 })) end
    assert.equal("/etc/l/p.lua belongs to uid 1000, not to root or the agent",
      (doubt({ mode = octal("600"), uid = 1000, gid = 1000 })))
    assert.equal("chown root /etc/l/p.lua", select(2, doubt({ mode = octal("600"), uid = 1000, gid = 1000 })))
  end)

  it("is written by no other group and not by all", function()
    for _, gid in ipairs({ 0, 8 }) do assert.is_nil(doubt({ mode = octal("664"), uid = 0, gid = gid })) end
    assert.equal("group 100 can write /etc/l/p.lua", (doubt({ mode = octal("664"), uid = 0, gid = 100 })))
    assert.equal("every user can write /etc/l/p.lua", (doubt({ mode = octal("646"), uid = 0, gid = 0 })))
  end)

  it("is in a folder where only they put files, or where nobody replaces another's", function()
    local file = { mode = octal("644"), uid = 0, gid = 0 }
    assert.equal("/etc/l belongs to uid 1000, not to root or the agent",
      (doubt(file, { mode = octal("755"), uid = 1000, gid = 0 })))
    assert.equal("every user can write /etc/l", (doubt(file, { mode = octal("777"), uid = 0, gid = 0 })))
    assert.equal("group 100 can write /etc/l", (doubt(file, { mode = octal("775"), uid = 0, gid = 100 })))
    assert.is_nil(doubt(file, { mode = octal("1777"), uid = 0, gid = 0 }))
  end)

  it("may be the host's root's in a user namespace, where that has no number", function()
    local inside = { uid = 0, gid = 0, mapped = false }
    assert.is_nil(doubt({ mode = octal("644"), uid = 65534, gid = 65534 }, { mode = octal("755"), uid = 65534, gid = 65534 },
      inside))
    assert.is_string((doubt({ mode = octal("644"), uid = 65534, gid = 65534 }, nil, agent)))
  end)

  it("that holds a user has no folder of that user's on the way to it", function()
    local stats = {
      ["/home/u/safe/p.lua"] = { mode = octal("644"), uid = 0, gid = 0 },
      ["/home/u/safe"] = { mode = octal("755") },
      ["/home/u"] = { mode = octal("755"), uid = 1000, gid = 1000 },
      ["/home"] = { mode = octal("755") }, ["/"] = { mode = octal("755") },
      ["/tmp/safe/p.lua"] = { mode = octal("644") }, ["/tmp/safe"] = { mode = octal("755") },
      ["/tmp"] = { mode = octal("1777") } }
    local function stat(path) return stats[path] end
    assert.is_nil((trust.doubt(stat, "/home/u/safe/p.lua", agent)))
    assert.equal("/home/u belongs to uid 1000, not to root or the agent",
      (trust.doubt_way(stat, "/home/u/safe/p.lua", agent)))
    assert.is_nil((trust.doubt_way(stat, "/tmp/safe/p.lua", agent)))
    stats["/tmp"].mode = octal("777")
    assert.equal("every user can write /tmp", (trust.doubt_way(stat, "/tmp/safe/p.lua", agent)))
  end)
end)
