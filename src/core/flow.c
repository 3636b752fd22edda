/* Names of actions and protocols; see flow.h. */
#include "core/flow.h"
#include <stdio.h>

const char *lat_action_name(enum lat_action action)
{
	static const char *const names[] = { "deny", "allow", "drop", "ask", "audit" };
	_Static_assert(sizeof(names) / sizeof(names[0]) == LAT_ACTION_COUNT, "a name for each action");

	return (unsigned)action < LAT_ACTION_COUNT ? names[action] : "deny";
}

const char *lat_proto_name(uint8_t proto, char buf[4])
{
	switch (proto) {
	case IPPROTO_TCP:
		return "tcp";
	case IPPROTO_UDP:
		return "udp";
	case IPPROTO_ICMP:
		return "icmp";
	case IPPROTO_ICMPV6:
		return "icmpv6";
	default:
		snprintf(buf, 4, "%u", proto);
		return buf;
	}
}
