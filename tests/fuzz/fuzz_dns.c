/* DNS messages from a program and from a name server. The first byte says which: below 128 a query
 * (read, then answered with what the rest gives), else an answer (read for the name that its own
 * question has). */
#include "core/dns_message.h"
#include "loop/answer.h"
#include <arpa/nameser.h>
#include <stdlib.h>
#include <string.h>

#define must(what)                                                                                 \
	do {                                                                                       \
		if (!(what))                                                                       \
			abort();                                                                   \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_reply(const uint8_t *buf, size_t len)
{
	ns_msg msg;
	ns_rr rr;

	must(ns_initparse(buf, (int)len, &msg) == 0);
	for (int i = 0; i < ns_msg_count(msg, ns_s_an); i++)
		must(ns_parserr(&msg, ns_s_an, i, &rr) == 0);
}

static void query(const uint8_t *data, size_t size)
{
	struct lat_dns_query *q = malloc(sizeof(*q));
	uint8_t *out = malloc(LAT_DNS_UDP_MAX);
	int code = lat_dns_query_parse(data, size, q);

	if (code >= 0) {
		struct lat_dns_reply r;
		struct lat_addr addr;
		char target[64];

		must(strlen(q->text) < LAT_DNS_TEXT);
		must(code != 0 || q->qname_len > 0);
		must(q->udp_size >= LAT_DNS_UDP_MIN && q->udp_size <= LAT_DNS_UDP_MAX);
		lat_dns_reply_begin(&r, out, q->udp_size, q);
		for (size_t at = 0; q->qname_len && at + 16 <= size; at += 16) {
			memcpy(&addr, data + at, 16);
			if (data[at] & 1) {
				memcpy(target, data + at, 16);
				target[16] = '\0';
				lat_dns_reply_cname(&r, target, data[at + 1]);
			} else {
				lat_dns_reply_addr(&r, &addr, data[at + 2]);
			}
			if (data[at] == 6)
				lat_dns_reply_undo(&r);
		}
		if (size & 1)
			lat_dns_reply_explain(&r, LAT_DNS_REASON_BLOCKED, "lattice: refused");
		size_t len = lat_dns_reply_end(&r, (enum lat_dns_rcode)code);

		must(len <= q->udp_size);
		check_reply(out, len);
	}
	free(out);
	free(q);
}

static void answer(const uint8_t *data, size_t size)
{
	struct lat_resolved *result = malloc(sizeof(*result));
	char name[NS_MAXDNAME] = "a.example";
	int family = 4;
	ns_msg msg;
	ns_rr rr;

	if (ns_initparse(data, (int)size, &msg) == 0 && ns_parserr(&msg, ns_s_qd, 0, &rr) == 0) {
		strcpy(name, ns_rr_name(rr));
		family = ns_rr_type(rr) == ns_t_aaaa ? 6 : 4;
	}
	lat_answer_echoes(data, size, name);
	if (lat_answer_read(data, size, name, family, result) == 0) {
		must(result->addr_count <= LAT_RESOLVE_MAX_ADDRS);
		must(result->cname_count <= LAT_RESOLVE_MAX_CNAMES);
		must((result->status == 0) == (result->addr_count > 0));
		for (size_t i = 0; i < result->addr_count; i++)
			must(lat_addr_is4(&result->addrs[i].addr) == (family == 4));
	}
	free(result);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] < 128)
		query(data + 1, size - 1);
	else
		answer(data + 1, size - 1);
	return 0;
}
