/* IP addresses and prefixes. An address is always 16 bytes in network order; IPv4 is v4-mapped (::ffff:a.b.c.d). */
#ifndef LAT_BASE_ADDR_H
#define LAT_BASE_ADDR_H
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct lat_addr {
	uint8_t b[16];
};

/* Longest text: an IPv6 address, and one with a prefix length. */
#define LAT_ADDR_TEXT 46
#define LAT_ENDPOINT_TEXT 56

/* A prefix of one family. len counts bits of that family: 0..32 for IPv4, 0..128 for IPv6. */
struct lat_prefix {
	struct lat_addr addr;
	uint8_t family; /* 4 or 6 */
	uint8_t len;
};

bool lat_addr_is4(const struct lat_addr *a);
bool lat_addr_equal(const struct lat_addr *a, const struct lat_addr *b);
/* 127.0.0.0/8, ::1. */
bool lat_addr_is_loopback(const struct lat_addr *a);
/* 0.0.0.0 or ::. The kernel treats it as the own host. */
bool lat_addr_is_any(const struct lat_addr *a);
/* Addresses that a name must not lead to unless its rule says private = true (DNS rebinding): this network, private,
 * shared (100.64/10), loopback, link-local, multicast, reserved, unique-local, NAT64, translated and 6to4 forms of those;
 * local-use NAT64 and Teredo, whose inner address is not certain. */
bool lat_addr_is_private(const struct lat_addr *a);

void lat_addr_from4(struct lat_addr *a, const void *four_bytes);
void lat_addr_from6(struct lat_addr *a, const void *sixteen_bytes);

/* Parses a numeric address (inet_pton forms only: "127.1" and "0x7f000001" are refused). 0, or -EINVAL with *out untouched. */
int lat_addr_parse(const char *text, struct lat_addr *out);
/* Writes the text form into buf (LAT_ADDR_TEXT bytes suffice) and returns buf. */
const char *lat_addr_format(const struct lat_addr *a, char *buf, size_t size);
/* "1.2.3.4:80" or "[2001:db8::1]:80" (LAT_ENDPOINT_TEXT bytes suffice). */
const char *lat_endpoint_format(const struct lat_addr *a, uint16_t port, char *buf, size_t size);

/* Address and port (host order) of a sockaddr. 0, -EAFNOSUPPORT for other families, -EINVAL when len is too short. */
int lat_addr_from_sockaddr(const struct sockaddr *sa, socklen_t len, struct lat_addr *a, uint16_t *port);
/* Fills *ss; IPv4 as sockaddr_in unless force6 (then v4-mapped sockaddr_in6). Returns the length. */
socklen_t lat_addr_to_sockaddr(const struct lat_addr *a, uint16_t port, bool force6, struct sockaddr_storage *ss);

/* Parses "10.0.0.0/8", "2001:db8::/32" or an address alone; a v4-mapped one is IPv4 (::ffff:10.0.0.0/104). 0; -EINVAL: not an address; -ERANGE: length beyond the
 * family; -EDOM: bits set beyond the length. *out is untouched on failure. */
int lat_prefix_parse(const char *text, struct lat_prefix *out);
bool lat_prefix_contains(const struct lat_prefix *p, const struct lat_addr *a);

#endif
