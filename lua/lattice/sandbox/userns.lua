-- Why no user namespace can be made here: the settings that are known to be the cause, asked for on this host.
local M = {}

local function read(path)
  local file = io.open(path, "r")
  if not file then return nil end
  local text = file:read("l")
  file:close()
  return text
end

--- What to do, or nil: the cause is another one.
---@return string?
function M.cause()
  if read("/proc/sys/kernel/unprivileged_userns_clone") == "0" then
    return "sysctl -w kernel.unprivileged_userns_clone=1 (it is 0 here)"
  end
  if read("/proc/sys/user/max_user_namespaces") == "0" then
    return "sysctl -w user.max_user_namespaces=10000 (it is 0 here)"
  end
  if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" then
    return "AppArmor restricts user namespaces here: install a profile for lattice with `userns,` "
      .. "(/etc/apparmor.d), or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
  end
end

return M
