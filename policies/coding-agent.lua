-- An agent that writes code: model APIs, code hosting, package registries. Not the local network, not the metadata
-- services, not the rest of the world. Add your own hosts in a file that includes this one:
--   include "coding-agent"
--   allow "tcp to git.example.com port 22, 443"
policy "coding-agent"
default "deny"

include "guards"

allow("tcp to api.anthropic.com, api.openai.com port https", { reason = "model API" })
allow("tcp to github.com, *.github.com, *.githubusercontent.com port https", { reason = "code hosting" })
allow("tcp to gitlab.com, *.gitlab.com port https", { reason = "code hosting" })
allow("tcp to github.com, gitlab.com port ssh", { reason = "git over ssh" })
include "package-install"

-- Refused by the default too; this line tells why.
deny("udp to any port 443", { reason = "no QUIC: use TCP" })

test {
  allow = {
    "tcp to api.anthropic.com port 443",
    "tcp to github.com port 22",
    "tcp to raw.githubusercontent.com port 443",
    "tcp to registry.npmjs.org port 443",
    "tcp to pypi.org port 443",
  },
  deny = {
    "tcp to github.com port 80",
    "udp to github.com port 443",
    "tcp to github.com.evil.example port 443",
    "tcp to 10.0.0.7 port 5432",
    "tcp to 169.254.169.254 port 80",
    "tcp to 127.0.0.1 port 8080",
    "tcp to github.com at 192.168.1.1 port 443",
    "in tcp from 203.0.113.1 port 22",
  },
}
