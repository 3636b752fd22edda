/* DNS messages as the sandbox's server sees them: queries are parsed strictly, answers are built
 * into a fixed buffer.
 *
 * A query has one question, no answers, no compressed names, and at most one additional record,
 * which is EDNS0's OPT. Everything else gets an error code. Nothing here allocates or keeps a
 * pointer into the input. */
#ifndef LAT_CORE_DNS_MESSAGE_H
#define LAT_CORE_DNS_MESSAGE_H
#include "base/addr.h"

#define LAT_DNS_WIRE_NAME 255 /* longest name in a message */
#define LAT_DNS_TEXT 1024     /* its text, every byte escaped as \DDD, with the NUL */
#define LAT_DNS_UDP_MIN 512   /* what every asker takes over UDP */
#define LAT_DNS_UDP_MAX 1232  /* most that is sent in one datagram, whatever the asker offers */

enum lat_dns_rcode {
	LAT_DNS_NOERROR = 0,
	LAT_DNS_FORMERR = 1,
	LAT_DNS_SERVFAIL = 2,
	LAT_DNS_NXDOMAIN = 3,
	LAT_DNS_NOTIMP = 4,
	LAT_DNS_REFUSED = 5,
	LAT_DNS_BADVERS = 16,
};

enum lat_dns_type {
	LAT_DNS_A = 1,
	LAT_DNS_CNAME = 5,
	LAT_DNS_PTR = 12,
	LAT_DNS_AAAA = 28,
	LAT_DNS_OPT = 41,
	LAT_DNS_IXFR = 251,
	LAT_DNS_AXFR = 252,
	LAT_DNS_ANY = 255,
};

/* Reasons in an answer for people (RFC 8914). */
enum lat_dns_reason {
	LAT_DNS_REASON_NONE = 0,
	LAT_DNS_REASON_BLOCKED = 15,
	LAT_DNS_REASON_FILTERED = 17
};

struct lat_dns_query {
	uint16_t id, qtype, qclass;
	uint16_t udp_size; /* what the asker takes over UDP, LAT_DNS_UDP_MIN..LAT_DNS_UDP_MAX */
	uint8_t opcode;
	uint8_t rd, cd;	   /* flags to give back */
	uint8_t edns;	   /* the query had an OPT record */
	uint8_t qname_len; /* 0: the question could not be read, the answer has none */
	uint8_t qname[LAT_DNS_WIRE_NAME]; /* wire form, case as asked */
	char text[LAT_DNS_TEXT]; /* for people: no trailing dot, odd bytes as \DDD; the root is "."
				  */
};

/* Reads a query. 0; a positive response code that is to be answered; or -EBADMSG: no query at all,
 * answer nothing. *out is filled as far as the message could be read. */
int lat_dns_query_parse(const uint8_t *msg, size_t len, struct lat_dns_query *out);

/* An answer under construction. The records that do not fit are left out and the answer says that
 * it is truncated. */
struct lat_dns_reply {
	uint8_t *buf;
	size_t size, len, last; /* last: where the last record begins */
	uint16_t owner;		/* offset of the name that the next record belongs to */
	uint16_t count;
	uint8_t edns, truncated;
	uint16_t reason;
	const char *reason_text;
};

/* size: at least LAT_DNS_UDP_MIN; the asker's limit is the caller's to respect. */
void lat_dns_reply_begin(
	struct lat_dns_reply *reply, uint8_t *buf, size_t size, const struct lat_dns_query *query);
/* The name of the records so far is an alias for `target`; later records belong to the target. 0;
 * -EINVAL: not a name that can be sent (nothing is added); -ENOSPC: truncated. */
int lat_dns_reply_cname(struct lat_dns_reply *reply, const char *target, uint32_t ttl);
/* A or AAAA by the address's family. 0 or -ENOSPC. */
int lat_dns_reply_addr(struct lat_dns_reply *reply, const struct lat_addr *addr, uint32_t ttl);
/* Takes back the record that was just added. */
void lat_dns_reply_undo(struct lat_dns_reply *reply);
/* Why there is no answer, for askers that can show it (EDNS0). text is not copied. */
void lat_dns_reply_explain(
	struct lat_dns_reply *reply, enum lat_dns_reason reason, const char *text);
/* Sets the response code and closes the message. Returns its length. */
size_t lat_dns_reply_end(struct lat_dns_reply *reply, enum lat_dns_rcode rcode);

/* The wire form of a name given as text without escapes. Its length, or -EINVAL. */
int lat_dns_name_encode(const char *text, uint8_t out[LAT_DNS_WIRE_NAME]);

#endif
