/* See dns.h. */
#include "intercept/dns.h"
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define HEADER 12
#define TYPE_A 1
#define TYPE_AAAA 28
#define CLASS_IN 1
#define RCODE_NXDOMAIN 3
#define RCODE_REFUSED 5

int lat_shim_dns_query(const char *name, int family, uint8_t out[LAT_SHIM_DNS_QUERY])
{
	static const uint8_t header[HEADER] = { 0x1a, 0x77, 1, 0, 0, 1 };
	size_t len = strlen(name), at = HEADER, label = 0;

	if (len && name[len - 1] == '.')
		len--;
	if (len == 0 || len > 253)
		return -EINVAL;
	memcpy(out, header, HEADER);
	for (size_t i = 0; i <= len; i++) {
		if (i < len && name[i] != '.')
			continue;
		if (i == label || i - label > 63)
			return -EINVAL;
		out[at++] = (uint8_t)(i - label);
		memcpy(out + at, name + label, i - label);
		at += i - label;
		label = i + 1;
	}
	out[at++] = 0;
	out[at++] = 0;
	out[at++] = family == 4 ? TYPE_A : TYPE_AAAA;
	out[at++] = 0;
	out[at++] = CLASS_IN;
	return (int)at;
}

static unsigned word(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

/* Behind the name at `at`, or 0. Where a pointer leads is not looked at. */
static size_t skip_name(const uint8_t *msg, size_t len, size_t at)
{
	while (at < len) {
		if (msg[at] == 0)
			return at + 1;
		if ((msg[at] & 0xc0) == 0xc0)
			return at + 2;
		if (msg[at] & 0xc0)
			return 0;
		at += 1u + msg[at];
	}
	return 0;
}

int lat_shim_dns_answer(const uint8_t *msg, size_t len, int family, struct lat_addr *out, size_t max)
{
	size_t at = HEADER, count = 0, size = family == 4 ? 4 : 16;
	unsigned answers, rcode;

	if (len < HEADER || !(msg[2] & 0x80) || word(msg + 4) > 1)
		return -EBADMSG;
	rcode = msg[3] & 15;
	if (rcode)
		return rcode == RCODE_NXDOMAIN ? -ENOENT : rcode == RCODE_REFUSED ? -EACCES : -EAGAIN;
	if (word(msg + 4)) {
		at = skip_name(msg, len, at);
		if (!at || at + 4 > len)
			return -EBADMSG;
		at += 4;
	}
	answers = word(msg + 6);
	for (unsigned i = 0; i < answers; i++) {
		unsigned type, rdlen;

		at = skip_name(msg, len, at);
		if (!at || at + 10 > len)
			return -EBADMSG;
		type = word(msg + at);
		rdlen = word(msg + at + 8);
		if (at + 10 + rdlen > len)
			return -EBADMSG;
		if (type == (family == 4 ? TYPE_A : TYPE_AAAA) && rdlen == size && count < max) {
			if (family == 4)
				lat_addr_from4(&out[count++], msg + at + 10);
			else
				lat_addr_from6(&out[count++], msg + at + 10);
		}
		at += 10 + rdlen;
	}
	return (int)count;
}
