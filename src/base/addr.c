/* Address and prefix text, classes and socket forms; see addr.h. */
#include "base/addr.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };

bool lat_addr_is4(const struct lat_addr *a)
{
	return memcmp(a->b, mapped, sizeof(mapped)) == 0;
}

bool lat_addr_equal(const struct lat_addr *a, const struct lat_addr *b)
{
	return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}

bool lat_addr_is_loopback(const struct lat_addr *a)
{
	static const uint8_t one[16] = { [15] = 1 };

	return lat_addr_is4(a) ? a->b[12] == 127 : memcmp(a->b, one, 16) == 0;
}

bool lat_addr_is_any(const struct lat_addr *a)
{
	static const uint8_t zero[16];

	return memcmp(a->b, zero, 16) == 0 || (lat_addr_is4(a) && memcmp(a->b + 12, zero, 4) == 0);
}

static bool private4(const uint8_t *b)
{
	return b[0] == 0 || b[0] == 10 || b[0] == 127 || (b[0] == 100 && (b[1] & 0xc0) == 64) ||
	       (b[0] == 169 && b[1] == 254) || (b[0] == 172 && (b[1] & 0xf0) == 16) ||
	       (b[0] == 192 && b[1] == 168) || (b[0] == 192 && b[1] == 0 && b[2] == 0) || b[0] >= 224;
}

bool lat_addr_is_private(const struct lat_addr *a)
{
	static const uint8_t nat64[12] = { 0x00, 0x64, 0xff, 0x9b };
	static const uint8_t local_nat64[6] = { 0x00, 0x64, 0xff, 0x9b, 0x00, 0x01 };
	static const uint8_t translated[12] = { [8] = 0xff, [9] = 0xff };
	static const uint8_t teredo[4] = { 0x20, 0x01 };
	static const uint8_t zero[12];
	const uint8_t *b = a->b;

	if (lat_addr_is4(a))
		return private4(b + 12);
	if (memcmp(b, zero, 12) == 0) /* ::, ::1, v4-compatible */
		return true;
	/* Where the IPv4 address inside cannot be told for sure, it counts as private. */
	if (memcmp(b, local_nat64, 6) == 0 || memcmp(b, teredo, 4) == 0)
		return true;
	if (memcmp(b, nat64, 12) == 0 || memcmp(b, translated, 12) == 0)
		return private4(b + 12);
	if (b[0] == 0x20 && b[1] == 0x02) /* 6to4 */
		return private4(b + 2);
	return (b[0] & 0xfe) == 0xfc || (b[0] == 0xfe && (b[1] & 0xc0) >= 0x80) || b[0] == 0xff;
}

void lat_addr_from4(struct lat_addr *a, const void *four_bytes)
{
	memcpy(a->b, mapped, sizeof(mapped));
	memcpy(a->b + 12, four_bytes, 4);
}

void lat_addr_from6(struct lat_addr *a, const void *sixteen_bytes)
{
	memcpy(a->b, sixteen_bytes, 16);
}

int lat_addr_parse(const char *text, struct lat_addr *out)
{
	uint8_t raw[16];

	if (inet_pton(AF_INET, text, raw) == 1) {
		lat_addr_from4(out, raw);
		return 0;
	}
	if (inet_pton(AF_INET6, text, raw) == 1) {
		lat_addr_from6(out, raw);
		return 0;
	}
	return -EINVAL;
}

/* Each audit record has two of them, and glibc's inet_ntop makes them by sprintf. */
static size_t format4(const uint8_t b[4], char text[16])
{
	size_t n = 0;

	for (int i = 0; i < 4; i++) {
		if (b[i] >= 100)
			text[n++] = (char)('0' + b[i] / 100);
		if (b[i] >= 10)
			text[n++] = (char)('0' + b[i] / 10 % 10);
		text[n++] = (char)('0' + b[i] % 10);
		text[n++] = i < 3 ? '.' : '\0';
	}
	return n;
}

const char *lat_addr_format(const struct lat_addr *a, char *buf, size_t size)
{
	char text[16];
	bool ok;

	if (lat_addr_is4(a)) {
		size_t n = format4(a->b + 12, text);

		ok = n <= size;
		if (ok)
			memcpy(buf, text, n);
	} else {
		ok = inet_ntop(AF_INET6, a->b, buf, (socklen_t)size) != NULL;
	}
	if (!ok && size)
		buf[0] = '\0';
	return buf;
}

const char *lat_endpoint_format(const struct lat_addr *a, uint16_t port, char *buf, size_t size)
{
	char text[LAT_ADDR_TEXT];

	lat_addr_format(a, text, sizeof(text));
	snprintf(buf, size, lat_addr_is4(a) ? "%s:%u" : "[%s]:%u", text, port);
	return buf;
}

int lat_addr_from_sockaddr(const struct sockaddr *sa, socklen_t len, struct lat_addr *a, uint16_t *port)
{
	struct sockaddr_in in4;
	struct sockaddr_in6 in6;

	if (len < sizeof(sa->sa_family))
		return -EINVAL;
	switch (sa->sa_family) {
	case AF_INET:
		if (len < sizeof(in4))
			return -EINVAL;
		memcpy(&in4, sa, sizeof(in4));
		lat_addr_from4(a, &in4.sin_addr);
		*port = ntohs(in4.sin_port);
		return 0;
	case AF_INET6:
		if (len < offsetof(struct sockaddr_in6, sin6_scope_id))
			return -EINVAL;
		memset(&in6, 0, sizeof(in6));
		memcpy(&in6, sa, len < sizeof(in6) ? len : sizeof(in6));
		lat_addr_from6(a, &in6.sin6_addr);
		*port = ntohs(in6.sin6_port);
		return 0;
	default:
		return -EAFNOSUPPORT;
	}
}

socklen_t lat_addr_to_sockaddr(const struct lat_addr *a, uint16_t port, bool force6, struct sockaddr_storage *ss)
{
	memset(ss, 0, sizeof(*ss));
	if (lat_addr_is4(a) && !force6) {
		struct sockaddr_in *in4 = (struct sockaddr_in *)ss;

		in4->sin_family = AF_INET;
		in4->sin_port = htons(port);
		memcpy(&in4->sin_addr, a->b + 12, 4);
		return sizeof(*in4);
	}
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;

	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(port);
	memcpy(&in6->sin6_addr, a->b, 16);
	return sizeof(*in6);
}

/* Are all bits of the family's address beyond len zero? bit0 is where the family's bits begin (96 for IPv4). */
static bool host_bits_clear(const struct lat_addr *a, unsigned bit0, unsigned len)
{
	for (unsigned bit = bit0 + len; bit < 128; bit++)
		if (a->b[bit / 8] & (0x80 >> (bit % 8)))
			return false;
	return true;
}

int lat_prefix_parse(const char *text, struct lat_prefix *out)
{
	char head[LAT_ADDR_TEXT + 1];
	const char *slash = strchr(text, '/');
	size_t n = slash ? (size_t)(slash - text) : strlen(text);
	struct lat_prefix p;
	bool is_mapped;
	unsigned long len;

	if (n >= sizeof(head))
		return -EINVAL;
	memcpy(head, text, n);
	head[n] = '\0';
	if (lat_addr_parse(head, &p.addr) < 0)
		return -EINVAL;
	p.family = lat_addr_is4(&p.addr) ? 4 : 6;
	is_mapped = p.family == 4 && strchr(head, ':');
	len = p.family == 4 && !is_mapped ? 32 : 128;
	if (slash) {
		char *end;

		if (slash[1] < '0' || slash[1] > '9')
			return -EINVAL;
		len = strtoul(slash + 1, &end, 10);
		if (*end)
			return -EINVAL;
		if (len > (p.family == 4 && !is_mapped ? 32u : 128u))
			return -ERANGE;
	}
	if (is_mapped) { /* ::ffff:10.0.0.0/104 is 10.0.0.0/8 */
		if (len < 96)
			return -EDOM;
		len -= 96;
	}
	if (!host_bits_clear(&p.addr, p.family == 4 ? 96 : 0, (unsigned)len))
		return -EDOM;
	p.len = (uint8_t)len;
	*out = p;
	return 0;
}

bool lat_prefix_contains(const struct lat_prefix *p, const struct lat_addr *a)
{
	unsigned bits = p->len + (p->family == 4 ? 96u : 0u);
	unsigned whole = bits / 8, rest = bits % 8;

	if ((p->family == 4) != lat_addr_is4(a))
		return false;
	if (memcmp(p->addr.b, a->b, whole) != 0)
		return false;
	return rest == 0 || ((p->addr.b[whole] ^ a->b[whole]) & (uint8_t)(0xff00 >> rest)) == 0;
}
