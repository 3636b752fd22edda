/* See dns_local.h. */
#include "core/dns_local.h"
#include <stdbool.h>
#include <string.h>

/* Is name `zone` or below it? */
static bool below(const char *name, const char *zone)
{
	size_t n = strlen(name), z = strlen(zone);

	return n >= z && strcmp(name + n - z, zone) == 0 && (n == z || name[n - z - 1] == '.');
}

enum lat_dns_local lat_dns_local_kind(const char *name)
{
	if (below(name, "localhost"))
		return LAT_DNS_LOCAL_HOST;
	if (below(name, "127.in-addr.arpa") ||
		strcmp(name, "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6."
			     "arpa") == 0)
		return LAT_DNS_LOCAL_REVERSE_HOST;
	if (below(name, "in-addr.arpa") || below(name, "ip6.arpa"))
		return LAT_DNS_LOCAL_REVERSE;
	return LAT_DNS_LOCAL_NO;
}
