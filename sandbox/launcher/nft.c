/* nf_tables messages by libnftnl: see nft.h. The rules themselves are in trap.c. */
#include "launcher/nft.h"
#include "base/mem.h"
#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <libnftnl/table.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/xt_NFQUEUE.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>

/* Every message is far smaller than this (the largest, set elements, are sent in portions). */
#define MESSAGE_MAX 16384
#define CAP_START 65536
#define ELEMENTS_PER_MESSAGE 100

static struct nlmsghdr *message(struct lat_nft *n, uint16_t type, uint16_t flags)
{
	if (n->error)
		return NULL;
	if (n->cap - n->len < MESSAGE_MAX) {
		char *bigger = realloc(n->buf, n->cap * 2);

		if (!bigger) {
			n->error = -ENOMEM;
			return NULL;
		}
		n->buf = bigger;
		n->cap *= 2;
	}
	return nftnl_nlmsg_build_hdr(n->buf + n->len, type, n->family, flags, n->seq++);
}

static void close_message(struct lat_nft *n, const struct nlmsghdr *h)
{
	n->len += MNL_ALIGN(h->nlmsg_len);
}

/* A libnftnl object that could not be had is remembered as the batch's error. */
static void *need(struct lat_nft *n, void *object)
{
	if (!object && !n->error)
		n->error = -ENOMEM;
	return object;
}

int lat_nft_begin(struct lat_nft *n, const char *table)
{
	*n = (struct lat_nft){
		.table = table, .cap = CAP_START, .buf = malloc(CAP_START), .seq = 1
	};
	if (!n->buf)
		return n->error = -ENOMEM;
	close_message(n, nftnl_batch_begin(n->buf, n->seq++));
	return 0;
}

int lat_nft_end(struct lat_nft *n)
{
	struct nlmsghdr *h;

	if (n->error)
		return n->error;
	if (n->removed) {
		close_message(n, nftnl_batch_end(n->buf + n->len, n->seq++));
		return 0;
	}
	/* The confirmation rides on an empty request at the end: asking for the table again. */
	h = message(n, NFT_MSG_NEWTABLE, NLM_F_ACK);
	if (!h)
		return n->error;
	mnl_attr_put_strz(h, NFTA_TABLE_NAME, n->table);
	close_message(n, h);
	close_message(n, nftnl_batch_end(n->buf + n->len, n->seq++));
	return 0;
}

void lat_nft_free(struct lat_nft *n)
{
	if (n->rule)
		nftnl_rule_free(n->rule);
	free(n->buf);
	*n = (struct lat_nft){ 0 };
}

int lat_nft_send(int fd, const struct lat_nft *n)
{
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	bool confirmed = false;
	char reply[8192];
	int error = 0;

	if (sendto(fd, n->buf, n->len, 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
		return -errno;
	/* nf_tables answers before send returns: what is not there now never comes. */
	for (;;) {
		ssize_t got = recv(fd, reply, sizeof(reply), MSG_DONTWAIT);
		int left = (int)got;

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return errno != EAGAIN ? -errno : error ? error : confirmed ? 0 : -EPROTO;
		for (struct nlmsghdr *h = (struct nlmsghdr *)reply; mnl_nlmsg_ok(h, left);
			h = mnl_nlmsg_next(h, &left)) {
			const struct nlmsgerr *e = mnl_nlmsg_get_payload(h);

			if (h->nlmsg_type != NLMSG_ERROR ||
				mnl_nlmsg_get_payload_len(h) < sizeof(*e))
				continue;
			/* The first one is the cause; the rest follow from it. */
			if (!error)
				error = e->error;
			confirmed = true;
		}
	}
}

void lat_nft_table(struct lat_nft *n)
{
	struct nlmsghdr *h = message(n, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL);

	if (!h)
		return;
	mnl_attr_put_strz(h, NFTA_TABLE_NAME, n->table);
	close_message(n, h);
	n->removed = false;
}

void lat_nft_table_remove(struct lat_nft *n)
{
	struct nlmsghdr *h = message(n, NFT_MSG_NEWTABLE, NLM_F_CREATE); /* so that there is one to remove */

	if (!h)
		return;
	mnl_attr_put_strz(h, NFTA_TABLE_NAME, n->table);
	close_message(n, h);
	h = message(n, NFT_MSG_DELTABLE, NLM_F_ACK);
	if (!h)
		return;
	mnl_attr_put_strz(h, NFTA_TABLE_NAME, n->table);
	close_message(n, h);
	n->removed = true;
}

void lat_nft_chain(struct lat_nft *n, const char *name, const struct lat_nft_hook *hook)
{
	struct nftnl_chain *chain = need(n, nftnl_chain_alloc());
	struct nlmsghdr *h = message(n, NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL);

	if (chain && h) {
		nftnl_chain_set_str(chain, NFTNL_CHAIN_TABLE, n->table);
		nftnl_chain_set_str(chain, NFTNL_CHAIN_NAME, name);
		if (hook) {
			nftnl_chain_set_u32(chain, NFTNL_CHAIN_HOOKNUM, hook->num);
			nftnl_chain_set_s32(chain, NFTNL_CHAIN_PRIO, hook->prio);
			nftnl_chain_set_str(chain, NFTNL_CHAIN_TYPE, "filter");
			nftnl_chain_set_u32(
				chain, NFTNL_CHAIN_POLICY, hook->drop ? NF_DROP : NF_ACCEPT);
		}
		nftnl_chain_nlmsg_build_payload(h, chain);
		close_message(n, h);
	}
	if (chain)
		nftnl_chain_free(chain);
}

static struct nftnl_set *set_named(struct lat_nft *n, const char *name)
{
	struct nftnl_set *set = need(n, nftnl_set_alloc());

	if (set) {
		nftnl_set_set_str(set, NFTNL_SET_TABLE, n->table);
		nftnl_set_set_str(set, NFTNL_SET_NAME, name);
	}
	return set;
}

void lat_nft_port_set(struct lat_nft *n, const char *name, uint32_t id)
{
	enum { INET_SERVICE = 13 }; /* nft's own number of the type, for its listings */
	struct nftnl_set *set = set_named(n, name);
	struct nlmsghdr *h = message(n, NFT_MSG_NEWSET, NLM_F_CREATE | NLM_F_EXCL);

	if (set && h) {
		nftnl_set_set_u32(set, NFTNL_SET_FAMILY, n->family);
		nftnl_set_set_u32(set, NFTNL_SET_ID, id);
		nftnl_set_set_u32(set, NFTNL_SET_FLAGS, NFT_SET_INTERVAL);
		nftnl_set_set_u32(set, NFTNL_SET_KEY_TYPE, INET_SERVICE);
		nftnl_set_set_u32(set, NFTNL_SET_KEY_LEN, sizeof(uint16_t));
		nftnl_set_nlmsg_build_payload(h, set);
		close_message(n, h);
	}
	if (set)
		nftnl_set_free(set);
}

void lat_nft_port_set_flush(struct lat_nft *n, const char *name)
{
	struct nftnl_set *set = set_named(n, name);
	struct nlmsghdr *h = message(n, NFT_MSG_DELSETELEM, 0);

	if (set && h) {
		nftnl_set_elems_nlmsg_build_payload(h, set);
		close_message(n, h);
	}
	if (set)
		nftnl_set_free(set);
}

static void element(struct lat_nft *n, struct nftnl_set *set, uint16_t port, uint32_t flags)
{
	struct nftnl_set_elem *e = need(n, nftnl_set_elem_alloc());
	uint16_t key = htons(port);

	if (!e)
		return;
	nftnl_set_elem_set(e, NFTNL_SET_ELEM_KEY, &key, sizeof(key));
	if (flags)
		nftnl_set_elem_set_u32(e, NFTNL_SET_ELEM_FLAGS, flags);
	nftnl_set_elem_add(set, e);
}

void lat_nft_port_set_add(
	struct lat_nft *n, const char *name, const uint16_t (*spans)[2], size_t count)
{
	for (size_t done = 0; done < count;) {
		struct nftnl_set *set = set_named(n, name);
		struct nlmsghdr *h = message(n, NFT_MSG_NEWSETELEM, NLM_F_CREATE);
		size_t end =
			count - done > ELEMENTS_PER_MESSAGE ? done + ELEMENTS_PER_MESSAGE : count;

		if (set && h) {
			for (; done < end; done++) {
				element(n, set, spans[done][0], 0);
				/* The element after the interval; one that reaches the end needs
				 * none. */
				if (spans[done][1] != UINT16_MAX)
					element(n, set, spans[done][1] + 1,
						NFT_SET_ELEM_INTERVAL_END);
			}
			nftnl_set_elems_nlmsg_build_payload(h, set);
			close_message(n, h);
		}
		if (set)
			nftnl_set_free(set);
		done = end;
	}
}

void lat_nft_rule(struct lat_nft *n, const char *chain)
{
	n->rule = need(n, n->error ? NULL : nftnl_rule_alloc());
	if (!n->rule)
		return;
	nftnl_rule_set_str(n->rule, NFTNL_RULE_TABLE, n->table);
	nftnl_rule_set_str(n->rule, NFTNL_RULE_CHAIN, chain);
}

void lat_nft_rule_end(struct lat_nft *n)
{
	struct nlmsghdr *h = message(n, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);

	if (n->rule && h) {
		nftnl_rule_nlmsg_build_payload(h, n->rule);
		close_message(n, h);
	}
	if (n->rule)
		nftnl_rule_free(n->rule);
	n->rule = NULL;
}

static struct nftnl_expr *expr(struct lat_nft *n, const char *name)
{
	struct nftnl_expr *e;

	if (n->error || !n->rule)
		return NULL;
	e = need(n, nftnl_expr_alloc(name));
	if (e)
		nftnl_rule_add_expr(n->rule, e);
	return e;
}

static void cmp(struct lat_nft *n, uint32_t op, const void *value, uint32_t len)
{
	struct nftnl_expr *e = expr(n, "cmp");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_SREG, NFT_REG_1);
	nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_OP, op);
	nftnl_expr_set(e, NFTNL_EXPR_CMP_DATA, value, len);
}

static void meta(struct lat_nft *n, uint32_t key)
{
	struct nftnl_expr *e = expr(n, "meta");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, key);
	nftnl_expr_set_u32(e, NFTNL_EXPR_META_DREG, NFT_REG_1);
}

static void payload(struct lat_nft *n, uint32_t base, uint32_t offset, uint32_t len)
{
	struct nftnl_expr *e = expr(n, "payload");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_BASE, base);
	nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_OFFSET, offset);
	nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_LEN, len);
	nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_DREG, NFT_REG_1);
}

static void mask_with(struct lat_nft *n, const void *mask, uint32_t len)
{
	static const uint8_t zero[16];
	struct nftnl_expr *e = expr(n, "bitwise");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_SREG, NFT_REG_1);
	nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_DREG, NFT_REG_1);
	nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_LEN, len);
	nftnl_expr_set(e, NFTNL_EXPR_BITWISE_MASK, mask, len);
	nftnl_expr_set(e, NFTNL_EXPR_BITWISE_XOR, zero, len);
}

static void match(struct lat_nft *n, uint32_t base, uint32_t offset, uint32_t len,
	const void *value, const void *mask)
{
	payload(n, base, offset, len);
	if (mask)
		mask_with(n, mask, len);
	cmp(n, NFT_CMP_EQ, value, len);
}

void lat_nft_network(
	struct lat_nft *n, uint32_t offset, uint32_t len, const void *value, const void *mask)
{
	match(n, NFT_PAYLOAD_NETWORK_HEADER, offset, len, value, mask);
}

void lat_nft_transport(
	struct lat_nft *n, uint32_t offset, uint32_t len, const void *value, const void *mask)
{
	match(n, NFT_PAYLOAD_TRANSPORT_HEADER, offset, len, value, mask);
}

void lat_nft_not_network8(struct lat_nft *n, uint32_t offset, uint8_t value)
{
	payload(n, NFT_PAYLOAD_NETWORK_HEADER, offset, 1);
	cmp(n, NFT_CMP_NEQ, &value, 1);
}

void lat_nft_l4proto(struct lat_nft *n, uint8_t proto)
{
	meta(n, NFT_META_L4PROTO);
	cmp(n, NFT_CMP_EQ, &proto, 1);
}

void lat_nft_device(struct lat_nft *n, bool out, const char *name)
{
	char padded[16] = "";

	strncpy(padded, name, sizeof(padded) - 1);
	meta(n, out ? NFT_META_OIFNAME : NFT_META_IIFNAME);
	cmp(n, NFT_CMP_EQ, padded, sizeof(padded));
}

void lat_nft_mark(struct lat_nft *n, uint32_t mark)
{
	meta(n, NFT_META_MARK);
	cmp(n, NFT_CMP_EQ, &mark, sizeof(mark));
}

void lat_nft_tcp_syn(struct lat_nft *n, bool syn)
{
	static const uint8_t flags = 0x17 /* ACK RST SYN FIN */, only_syn = 0x02;

	lat_nft_l4proto(n, IPPROTO_TCP);
	payload(n, NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1);
	mask_with(n, &flags, 1);
	cmp(n, syn ? NFT_CMP_EQ : NFT_CMP_NEQ, &only_syn, 1);
}

void lat_nft_dport_in(struct lat_nft *n, const char *set, uint32_t id)
{
	struct nftnl_expr *e;

	payload(n, NFT_PAYLOAD_TRANSPORT_HEADER, 2, sizeof(uint16_t));
	e = expr(n, "lookup");
	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, NFT_REG_1);
	nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, set);
	nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SET_ID, id);
}

void lat_nft_socket_bound(struct lat_nft *n)
{
	static const uint8_t not_wildcard = 0;
	struct nftnl_expr *e = expr(n, "socket");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_SOCKET_KEY, NFT_SOCKET_WILDCARD);
	nftnl_expr_set_u32(e, NFTNL_EXPR_SOCKET_DREG, NFT_REG_1);
	cmp(n, NFT_CMP_EQ, &not_wildcard, 1);
}

static void number(struct lat_nft *n, const void *value, uint32_t len)
{
	struct nftnl_expr *e = expr(n, "immediate");

	if (!e)
		return;
	nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_1);
	nftnl_expr_set(e, NFTNL_EXPR_IMM_DATA, value, len);
}

static void verdict(struct lat_nft *n, int code, const char *chain)
{
	struct nftnl_expr *e = expr(n, "immediate");

	if (e) {
		nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
		nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_VERDICT, (uint32_t)code);
		if (chain)
			nftnl_expr_set_str(e, NFTNL_EXPR_IMM_CHAIN, chain);
	}
	lat_nft_rule_end(n);
}

static void put_mark(struct lat_nft *n, uint32_t mark)
{
	struct nftnl_expr *e;

	number(n, &mark, sizeof(mark));
	e = expr(n, "meta");
	if (e) {
		nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, NFT_META_MARK);
		nftnl_expr_set_u32(e, NFTNL_EXPR_META_SREG, NFT_REG_1);
	}
}

void lat_nft_set_mark(struct lat_nft *n, uint32_t mark)
{
	put_mark(n, mark);
	lat_nft_rule_end(n);
}

void lat_nft_accept(struct lat_nft *n)
{
	verdict(n, NF_ACCEPT, NULL);
}

void lat_nft_accept_as(struct lat_nft *n, uint32_t mark)
{
	put_mark(n, mark);
	verdict(n, NF_ACCEPT, NULL);
}

void lat_nft_drop(struct lat_nft *n)
{
	verdict(n, NF_DROP, NULL);
}

void lat_nft_goto(struct lat_nft *n, const char *chain)
{
	verdict(n, NFT_GOTO, chain);
}

/* Without the bypass flag: while nobody listens on the queue, its packets are dropped. */
void lat_nft_queue(struct lat_nft *n, uint16_t queue)
{
	struct nftnl_expr *e = expr(n, n->compat_queue ? "target" : "queue");

	if (e && n->compat_queue) {
		struct xt_NFQ_info_v1 *info = need(n, calloc(1, sizeof(*info)));

		nftnl_expr_set_str(e, NFTNL_EXPR_TG_NAME, "NFQUEUE");
		nftnl_expr_set_u32(e, NFTNL_EXPR_TG_REV, 1);
		if (info) {
			info->queuenum = queue;
			info->queues_total = 1;
			nftnl_expr_set(e, NFTNL_EXPR_TG_INFO, info, sizeof(*info)); /* takes it */
		}
	} else if (e) {
		nftnl_expr_set_u16(e, NFTNL_EXPR_QUEUE_NUM, queue);
		nftnl_expr_set_u16(e, NFTNL_EXPR_QUEUE_TOTAL, 1);
	}
	lat_nft_rule_end(n);
}

static void reject(struct lat_nft *n, uint32_t type, uint8_t code)
{
	struct nftnl_expr *e = expr(n, "reject");

	if (e) {
		nftnl_expr_set_u32(e, NFTNL_EXPR_REJECT_TYPE, type);
		nftnl_expr_set_u8(e, NFTNL_EXPR_REJECT_CODE, code);
	}
	lat_nft_rule_end(n);
}

void lat_nft_reject_tcp(struct lat_nft *n)
{
	reject(n, NFT_REJECT_TCP_RST, 0);
}

void lat_nft_reject_icmp(struct lat_nft *n, uint8_t code)
{
	reject(n, NFT_REJECT_ICMP_UNREACH, code);
}

void lat_nft_tproxy(struct lat_nft *n, uint16_t port)
{
	uint16_t wire = htons(port);
	struct nftnl_expr *e;

	number(n, &wire, sizeof(wire));
	e = expr(n, "tproxy");
	if (e) {
		nftnl_expr_set_u32(e, NFTNL_EXPR_TPROXY_FAMILY, n->family);
		nftnl_expr_set_u32(e, NFTNL_EXPR_TPROXY_REG_PORT, NFT_REG_1);
	}
	lat_nft_rule_end(n);
}
