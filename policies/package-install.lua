-- Installing packages from the public registries of JavaScript, Python, Rust and Go, over https, and nothing else.
policy "package-install"
default "deny"

include "guards"

allow("tcp to registry.npmjs.org port https", { reason = "npm" })
allow("tcp to pypi.org, files.pythonhosted.org port https", { reason = "pip" })
allow("tcp to crates.io, index.crates.io, static.crates.io port https", { reason = "cargo" })
allow("tcp to proxy.golang.org, sum.golang.org port https", { reason = "go" })

test {
  allow = {
    "tcp to registry.npmjs.org port 443",
    "tcp to files.pythonhosted.org port 443",
    "tcp to index.crates.io port 443",
    "tcp to sum.golang.org port 443",
  },
  deny = {
    "tcp to registry.npmjs.org port 80",
    "udp to pypi.org port 443",
    "tcp to evil.pypi.org port 443",
    "tcp to pypi.org.example port 443",
    "tcp to 203.0.113.1 port 443",
    -- a registry's name that leads to a private address is not the registry
    "tcp to pypi.org at 10.0.0.7 port 443",
  },
}
