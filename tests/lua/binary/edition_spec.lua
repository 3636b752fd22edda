-- What an edition's binaries hold: the community edition no BPF program and no libbpf, the pro edition both.
local lattice = os.getenv("LATTICE")

local function lines(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local text = pipe:read("a")
  pipe:close()
  return text
end

-- Objects for the machine "bpf" inside a file.
local function bpf_objects(path)
  local file = assert(io.open(path, "rb"))
  local bytes = file:read("a")
  file:close()
  local count, at = 0, 1
  while true do
    at = bytes:find("\127ELF", at + 1, true)
    if not at then return count end
    if at + 19 <= #bytes and string.unpack("<I2", bytes, at + 18) == 247 then count = count + 1 end
  end
end

describe("an edition", function()
  if not lattice then return pending("all of it", "LATTICE does not name the binary") end
  local edition = lines(("'%s' version"):format(lattice)):match("%((%a+)%)")

  it("is named by both programs", function()
    assert.is_true(edition == "community" or edition == "pro")
    assert.equal(edition, lines(("'%sd' --version"):format(lattice)):match("%((%a+)%)"))
  end)

  for _, path in ipairs({ lattice, lattice .. "d" }) do
    it(("%s has its BPF programs or none"):format(path:match("[^/]*$")), function()
      local names = { "lat_lpm_slots", "lat_data_slots", "lat_fragments" } -- maps of the programs
      local strings = lines(("grep -aoE '%s' '%s' | sort -u"):format(table.concat(names, "|"), path))
      local needed = lines(("readelf -dW '%s'"):format(path)):find("libbpf", 1, true) ~= nil
      if edition == "community" then
        assert.equal(0, bpf_objects(path))
        assert.equal("", strings)
        assert.is_false(needed)
      else
        assert.is_true(bpf_objects(path) > 0)
        assert.is_truthy(strings:find("lat_lpm_slots", 1, true))
      end
    end)
  end
end)
