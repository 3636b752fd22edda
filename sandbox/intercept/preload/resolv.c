/* The res_ calls: DNS messages, which go to the supervisor's server as they are. */
#include "shim.h"
#include "intercept/dns.h"

#define TYPE_A 1
#define TYPE_AAAA 28

/* As res_send: the length of the answer, or -1. */
static int send_query(const uint8_t *query, int len, uint8_t *answer, int size)
{
	int keep = errno, r;

	if (len < 12 || size < 12) {
		errno = EINVAL;
		return -1;
	}
	r = lat_shim_dns(query, (size_t)len, answer, (size_t)size);
	if (r < 0) {
		errno = r == -EMSGSIZE ? EMSGSIZE : ECONNREFUSED;
		return -1;
	}
	errno = keep;
	return r;
}

/* A query of any type: what is not an address has an empty answer there. */
static int query(const char *name, int class, int type, uint8_t *answer, int size)
{
	uint8_t message[LAT_SHIM_DNS_QUERY];
	int n = lat_shim_dns_query(name, type == TYPE_AAAA ? 6 : 4, message);

	if (n < 0) {
		errno = EINVAL;
		return -1;
	}
	message[n - 4] = (uint8_t)(type >> 8);
	message[n - 3] = (uint8_t)type;
	message[n - 2] = (uint8_t)(class >> 8);
	message[n - 1] = (uint8_t)class;
	n = send_query(message, n, answer, size);
	/* As libc: no answer is an error. */
	return n >= 12 && ((answer[3] & 15) || (answer[6] == 0 && answer[7] == 0)) ? -1 : n;
}

LAT_HOOK(int, res_send, (const uint8_t *msg, int len, uint8_t *answer, int size))
{
	return send_query(msg, len, answer, size);
}

LAT_HOOK(int, res_nsend, (void *state, const uint8_t *msg, int len, uint8_t *answer, int size))
{
	(void)state;
	return send_query(msg, len, answer, size);
}

LAT_HOOK(int, res_query, (const char *name, int class, int type, uint8_t *answer, int size))
{
	return query(name, class, type, answer, size);
}

LAT_HOOK(int, res_nquery, (void *state, const char *name, int class, int type, uint8_t *answer, int size))
{
	(void)state;
	return query(name, class, type, answer, size);
}

/* No search list: a name is what it says. */
LAT_HOOK(int, res_search, (const char *name, int class, int type, uint8_t *answer, int size))
{
	return query(name, class, type, answer, size);
}

LAT_HOOK(int, res_nsearch, (void *state, const char *name, int class, int type, uint8_t *answer, int size))
{
	(void)state;
	return query(name, class, type, answer, size);
}

static int query_domain(const char *name, const char *domain, int class, int type, uint8_t *answer, int size)
{
	char whole[256];
	size_t n = strlen(name), k = domain ? strlen(domain) : 0;

	if (n + 1 + k >= sizeof(whole)) {
		errno = EINVAL;
		return -1;
	}
	memcpy(whole, name, n + 1);
	if (k) {
		whole[n] = '.';
		memcpy(whole + n + 1, domain, k + 1);
	}
	return query(whole, class, type, answer, size);
}

LAT_HOOK(int, res_querydomain,
	(const char *name, const char *domain, int class, int type, uint8_t *answer, int size))
{
	return query_domain(name, domain, class, type, answer, size);
}

LAT_HOOK(int, res_nquerydomain,
	(void *state, const char *name, const char *domain, int class, int type, uint8_t *answer, int size))
{
	(void)state;
	return query_domain(name, domain, class, type, answer, size);
}

/* As <resolv.h> names them. */
LAT_ALIAS(__res_send, res_send);
LAT_ALIAS(__res_nsend, res_nsend);
LAT_ALIAS(__res_query, res_query);
LAT_ALIAS(__res_nquery, res_nquery);
LAT_ALIAS(__res_search, res_search);
LAT_ALIAS(__res_nsearch, res_nsearch);
LAT_ALIAS(__res_querydomain, res_querydomain);
LAT_ALIAS(__res_nquerydomain, res_nquerydomain);
