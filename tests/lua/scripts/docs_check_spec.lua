-- scripts/docs-check notices a transcript that does not happen.
local source = os.getenv("LATTICE_SOURCE") or "."

describe("scripts/docs-check", function()
  local root

  before_each(function()
    local pipe = assert(io.popen("mktemp -d && unshare -Urn true 2>/dev/null && echo yes"))
    root = pipe:read("l")
    local able = pipe:read("l")
    pipe:close()
    if not able then pending("this host lets nobody make a user namespace") end
    os.execute(("mkdir -p '%s/build' && ln -s '%s/examples' '%s/'"):format(root, source, root))
  end)

  after_each(function()
    os.execute(("rm -rf '%s'"):format(root))
  end)

  local function check(text)
    local file = assert(io.open(root .. "/README.md", "w"))
    file:write((text:gsub("~~~", "```")))
    file:close()
    local pipe = assert(io.popen(("LATTICE_SOURCE='%s' LATTICE='%s/build/lattice' lua5.4 '%s/scripts/docs-check'")
      :format(root, root, source)))
    local out = pipe:read("a")
    return pipe:close() == true, out
  end

  it("passes what happens, with ... for anything", function()
    local good, text = check("~~~sh\necho one; echo two; echo three 3\n~~~\n~~~text\n...\nthree ...\n~~~\n")
    assert.is_true(good, text)
  end)

  it("fails what does not", function()
    local good, text = check("~~~sh\necho one\n~~~\n~~~text\ntwo\n~~~\n")
    assert.is_false(good)
    assert.truthy(text:find("not ok 1 - README.md:1", 1, true), text)
  end)

  it("has an example.com to talk to", function()
    local good, text = check("~~~sh\ncurl -s http://example.com/\n~~~\n~~~text\nhello from port 80\n~~~\n")
    assert.is_true(good, text)
  end)
end)
