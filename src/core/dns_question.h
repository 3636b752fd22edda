/* A query on its way to its answer: what dns.c (which moves it) and dns_answer.c (which ends it)
 * share. */
#ifndef LAT_CORE_DNS_QUESTION_H
#define LAT_CORE_DNS_QUESTION_H
#include "core/dns.h"
#include "core/dns_cache.h"
#include "core/dns_message.h"
#include "core/dns_stream.h"

/* The longest answer: all aliases and addresses of a result are below 7 KiB. */
#define LAT_DNS_REPLY 16384

/* See the top of dns.c. */
enum lat_dns_state { LAT_DNS_JUDGING, LAT_DNS_WAITING, LAT_DNS_RESOLVING };

struct lat_dns_question {
	struct lat_dns_question *next;
	struct lat_dns *dns; /* NULL: the server is gone, the resolver still has the question */
	struct lat_dns_conn *conn; /* NULL: asked over UDP, or the connection is gone */
	struct sockaddr_storage from;
	socklen_t from_len;
	uint64_t id, asked_ns;
	enum lat_dns_state state;
	bool tcp, private_ok;
	uint16_t sport;
	char name[LAT_NAME_MAX]; /* normalized; "" if it is no host name */
	struct lat_dns_query query;
};

struct lat_dns {
	struct lat_poll_item udp;
	struct lat_poller *poller;
	struct lat_resolver *resolver;
	const struct lat_dns_hooks *hooks;
	struct lat_dns_stream_hooks stream_hooks;
	struct lat_dns_streams *streams;
	struct lat_dns_cache *cache;
	struct lat_dns_question *questions;
	size_t open;
	uint64_t next_id;
	uint32_t grace_s;
	int asker; /* see lat_dns_asker */
	struct lat_resolved cached; /* what the cache gave, while it is answered */
	uint8_t out[LAT_DNS_REPLY];
};

/* Each of these answers the question, tells the hook, and frees it. */
void lat_dns_question_code(struct lat_dns_question *q, enum lat_dns_rcode rcode);
void lat_dns_question_refuse(struct lat_dns_question *q);
/* localhost and the names below it. */
void lat_dns_question_localhost(struct lat_dns_question *q);
/* With what the host's resolver found, as far as it may be given. */
void lat_dns_question_result(struct lat_dns_question *q, const struct lat_resolved *result);

/* Does it ask for addresses? Other types of a name that may be resolved have empty answers. */
static inline bool lat_dns_question_asks_address(const struct lat_dns_question *q)
{
	return q->query.qtype == LAT_DNS_A || q->query.qtype == LAT_DNS_AAAA;
}

/* How long a result may be kept, in seconds: as long as its shortest record. */
uint32_t lat_dns_keep_s(const struct lat_resolved *result);

#endif
