/* The kernel's WireGuard by generic netlink (linux/wireguard.h). Peers and allowed addresses that do not fit into one message go
 * on in the next, in both directions. */
#include "base/mem.h"
#include "kernel/wireguard.h"
#include <linux/wireguard.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <string.h>
#include <sys/socket.h>

#define MESSAGE 16384 /* bytes that we put into one */
#define RECEIVE 65536 /* more than the kernel puts into one */
/* What a peer and an allowed address take at most, with all headers. */
#define PEER_ROOM 256
#define ALLOWED_ROOM 64

struct call {
	struct nl_sock *sk;
	int family;
	/* of a get */
	struct lat_wg wg;
	struct lat_wg_peer *peer; /* the last one, which the next message may go on with */
};

/* The keys in a message must not stay in freed memory. */
static void drop(struct nl_msg *msg)
{
	if (!msg)
		return;
	explicit_bzero(nlmsg_data(nlmsg_hdr(msg)), (size_t)nlmsg_datalen(nlmsg_hdr(msg)));
	nlmsg_free(msg);
}

static int open_call(struct call *c)
{
	c->sk = nl_socket_alloc();
	if (!c->sk)
		return -ENOMEM;
	if (genl_connect(c->sk) < 0)
		return -EPROTONOSUPPORT;
	c->family = genl_ctrl_resolve(c->sk, WG_GENL_NAME);
	return c->family < 0 ? -EOPNOTSUPP : 0;
}

typedef int message_fn(struct call *c, struct nlmsghdr *h);

/* One datagram of answers. 1: it held the last word, whose error is *error. */
static int read_answers(struct call *c, uint8_t *buf, ssize_t size, uint32_t seq, message_fn *fn, int *error)
{
	struct nlmsghdr *h = (struct nlmsghdr *)buf;
	int left = (int)size;

	for (; nlmsg_ok(h, left); h = nlmsg_next(h, &left)) {
		if (h->nlmsg_seq != seq)
			continue;
		if (h->nlmsg_type == NLMSG_ERROR || h->nlmsg_type == NLMSG_DONE) {
			/* both begin with the error; a DONE may come without */
			*error = nlmsg_datalen(h) >= (int)sizeof(int) ? *(const int *)nlmsg_data(h) : 0;
			return 1;
		}
		if (fn && h->nlmsg_type >= NLMSG_MIN_TYPE) {
			int r = fn(c, h);

			if (r < 0)
				return r;
		}
	}
	return 0;
}

/* Sends msg (taken) and reads what comes until the kernel's last word. By hand: a dump holds the private key, and libnl frees
 * what it received as it is. */
static int talk(struct call *c, struct nl_msg *msg, message_fn *fn)
{
	uint8_t *buf = malloc(RECEIVE);
	int r = buf ? nl_send_auto(c->sk, msg) : -ENOMEM, error = 0;
	uint32_t seq = nlmsg_hdr(msg)->nlmsg_seq;

	drop(msg);
	if (!buf)
		return -ENOMEM;
	r = r < 0 ? -EIO : 0;
	while (r == 0) {
		ssize_t n = recv(nl_socket_get_fd(c->sk), buf, RECEIVE, MSG_TRUNC);

		if (n < 0 && errno == EINTR)
			continue;
		r = n < 0 ? -errno : n > RECEIVE ? -EMSGSIZE : read_answers(c, buf, n, seq, fn, &error);
	}
	explicit_bzero(buf, RECEIVE);
	free(buf);
	return r < 0 ? r : error;
}

static struct nl_msg *begin(const struct call *c, const char *name, int command, int flags)
{
	struct nl_msg *msg = nlmsg_alloc_size(MESSAGE + 4096);

	if (msg && (!genlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, c->family, 0, flags, (uint8_t)command, WG_GENL_VERSION) ||
			   nla_put_string(msg, WGDEVICE_A_IFNAME, name) < 0)) {
		nlmsg_free(msg);
		return NULL;
	}
	return msg;
}

/* ---- get ---- */

static bool get_key(const struct nlattr *a, uint8_t key[LAT_WG_KEY])
{
	if (!a || nla_len(a) != LAT_WG_KEY)
		return false;
	memcpy(key, nla_data(a), LAT_WG_KEY);
	return true;
}

static void get_endpoint(const struct nlattr *a, struct lat_wg_peer *peer)
{
	struct sockaddr_storage ss = { 0 };

	if (!a || (size_t)nla_len(a) > sizeof(ss))
		return;
	memcpy(&ss, nla_data(a), (size_t)nla_len(a));
	peer->has_endpoint =
		lat_addr_from_sockaddr((struct sockaddr *)&ss, (socklen_t)nla_len(a), &peer->endpoint, &peer->port) == 0;
}

static int get_allowed(struct nlattr *list, struct lat_wg_peer *peer)
{
	struct nlattr *one, *tb[WGALLOWEDIP_A_MAX + 1];
	int left;

	nla_for_each_nested(one, list, left) {
		struct lat_prefix prefix = { .family = 0 };
		struct nlattr *addr;

		if (nla_parse_nested(tb, WGALLOWEDIP_A_MAX, one, NULL) < 0 || !tb[WGALLOWEDIP_A_IPADDR] ||
			!tb[WGALLOWEDIP_A_CIDR_MASK])
			return -EBADMSG;
		addr = tb[WGALLOWEDIP_A_IPADDR];
		prefix.len = nla_get_u8(tb[WGALLOWEDIP_A_CIDR_MASK]);
		if (nla_len(addr) == 4) {
			prefix.family = 4;
			lat_addr_from4(&prefix.addr, nla_data(addr));
		} else if (nla_len(addr) == 16) {
			prefix.family = 6;
			lat_addr_from6(&prefix.addr, nla_data(addr));
		} else {
			return -EBADMSG;
		}
		if (lat_wg_add_allowed(peer, &prefix) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int get_peer(struct call *c, struct nlattr *nest)
{
	struct nlattr *tb[WGPEER_A_MAX + 1];
	uint8_t key[LAT_WG_KEY];

	if (nla_parse_nested(tb, WGPEER_A_MAX, nest, NULL) < 0 || !get_key(tb[WGPEER_A_PUBLIC_KEY], key))
		return -EBADMSG;
	if (!c->peer || memcmp(c->peer->key, key, sizeof(key)) != 0) {
		c->peer = lat_wg_add_peer(&c->wg, key);
		if (!c->peer)
			return -ENOMEM;
		get_key(tb[WGPEER_A_PRESHARED_KEY], c->peer->preshared);
		get_endpoint(tb[WGPEER_A_ENDPOINT], c->peer);
		if (tb[WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL])
			c->peer->keepalive = nla_get_u16(tb[WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL]);
		if (tb[WGPEER_A_RX_BYTES])
			c->peer->rx = nla_get_u64(tb[WGPEER_A_RX_BYTES]);
		if (tb[WGPEER_A_TX_BYTES])
			c->peer->tx = nla_get_u64(tb[WGPEER_A_TX_BYTES]);
		if (tb[WGPEER_A_LAST_HANDSHAKE_TIME] && nla_len(tb[WGPEER_A_LAST_HANDSHAKE_TIME]) >= 8)
			memcpy(&c->peer->handshake_s, nla_data(tb[WGPEER_A_LAST_HANDSHAKE_TIME]), 8);
	}
	return tb[WGPEER_A_ALLOWEDIPS] ? get_allowed(tb[WGPEER_A_ALLOWEDIPS], c->peer) : 0;
}

static int on_device(struct call *c, struct nlmsghdr *h)
{
	struct nlattr *tb[WGDEVICE_A_MAX + 1], *one;
	int left, r = 0;

	if (genlmsg_parse(h, 0, tb, WGDEVICE_A_MAX, NULL) < 0)
		return -EBADMSG;
	if (get_key(tb[WGDEVICE_A_PRIVATE_KEY], c->wg.private_key))
		c->wg.set_private = true;
	get_key(tb[WGDEVICE_A_PUBLIC_KEY], c->wg.public_key);
	if (tb[WGDEVICE_A_LISTEN_PORT]) {
		c->wg.set_listen = true;
		c->wg.listen = nla_get_u16(tb[WGDEVICE_A_LISTEN_PORT]);
	}
	if (tb[WGDEVICE_A_PEERS]) {
		nla_for_each_nested(one, tb[WGDEVICE_A_PEERS], left) {
			r = get_peer(c, one);
			if (r < 0)
				break;
		}
	}
	return r;
}

int lat_wg_kernel_get(const char *name, struct lat_wg *out)
{
	struct call c = { NULL };
	struct nl_msg *msg;
	int r = open_call(&c);

	if (r == 0) {
		msg = begin(&c, name, WG_CMD_GET_DEVICE, NLM_F_DUMP);
		r = msg ? talk(&c, msg, on_device) : -ENOMEM;
	}
	nl_socket_free(c.sk);
	if (r < 0)
		lat_wg_wipe(&c.wg);
	else
		*out = c.wg;
	explicit_bzero(&c.wg, sizeof(c.wg));
	return r;
}

/* ---- set ---- */

static int put_allowed(struct nl_msg *msg, const struct lat_prefix *prefix)
{
	struct nlattr *nest = nla_nest_start(msg, NLA_F_NESTED);
	bool v4 = prefix->family == 4;

	if (!nest || nla_put_u16(msg, WGALLOWEDIP_A_FAMILY, v4 ? AF_INET : AF_INET6) < 0 ||
		nla_put(msg, WGALLOWEDIP_A_IPADDR, v4 ? 4 : 16, prefix->addr.b + (v4 ? 12 : 0)) < 0 ||
		nla_put_u8(msg, WGALLOWEDIP_A_CIDR_MASK, prefix->len) < 0)
		return -EMSGSIZE;
	nla_nest_end(msg, nest);
	return 0;
}

static size_t used(struct nl_msg *msg)
{
	return nlmsg_hdr(msg)->nlmsg_len;
}

/* As much of a peer as fits, from its allowed address *from on, which moves to the first that did not. */
static int put_peer(struct nl_msg *msg, const struct lat_wg_peer *peer, size_t *from)
{
	struct nlattr *nest = nla_nest_start(msg, NLA_F_NESTED), *list;
	uint32_t flags = (peer->remove ? WGPEER_F_REMOVE_ME : 0) |
			 (peer->replace_allowed && *from == 0 ? WGPEER_F_REPLACE_ALLOWEDIPS : 0);

	if (!nest || nla_put(msg, WGPEER_A_PUBLIC_KEY, LAT_WG_KEY, peer->key) < 0 ||
		(flags && nla_put_u32(msg, WGPEER_A_FLAGS, flags) < 0))
		return -EMSGSIZE;
	if (*from == 0 && !peer->remove) {
		struct sockaddr_storage ss;
		socklen_t size = peer->set_endpoint ? lat_addr_to_sockaddr(&peer->endpoint, peer->port, false, &ss) : 0;

		if ((peer->set_preshared && nla_put(msg, WGPEER_A_PRESHARED_KEY, LAT_WG_KEY, peer->preshared) < 0) ||
			(size && nla_put(msg, WGPEER_A_ENDPOINT, (int)size, &ss) < 0) ||
			(peer->set_keepalive &&
				nla_put_u16(msg, WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, peer->keepalive) < 0))
			return -EMSGSIZE;
	}
	if (*from < peer->allowed_count) {
		list = nla_nest_start(msg, WGPEER_A_ALLOWEDIPS | NLA_F_NESTED);
		if (!list)
			return -EMSGSIZE;
		for (; *from < peer->allowed_count && used(msg) + ALLOWED_ROOM < MESSAGE; (*from)++) {
			if (put_allowed(msg, &peer->allowed[*from]) < 0)
				return -EMSGSIZE;
		}
		nla_nest_end(msg, list);
	}
	nla_nest_end(msg, nest);
	return 0;
}

int lat_wg_kernel_set(const char *name, const struct lat_wg *change)
{
	size_t peer = 0, allowed = 0;
	struct call c = { NULL };
	bool first = true;
	int r = open_call(&c);

	while (r == 0 && (first || peer < change->count)) {
		struct nl_msg *msg = begin(&c, name, WG_CMD_SET_DEVICE, 0);
		struct nlattr *list = NULL;

		if (!msg) {
			r = -ENOMEM;
			break;
		}
		if (first && ((change->set_private &&
				      nla_put(msg, WGDEVICE_A_PRIVATE_KEY, LAT_WG_KEY, change->private_key) < 0) ||
				     (change->set_listen && nla_put_u16(msg, WGDEVICE_A_LISTEN_PORT, change->listen) < 0)))
			r = -EMSGSIZE;
		first = false;
		if (r == 0 && peer < change->count && !(list = nla_nest_start(msg, WGDEVICE_A_PEERS | NLA_F_NESTED)))
			r = -EMSGSIZE;
		while (r == 0 && peer < change->count && used(msg) + PEER_ROOM < MESSAGE) {
			r = put_peer(msg, &change->peers[peer], &allowed);
			if (r == 0 && allowed < change->peers[peer].allowed_count)
				break; /* full: this one goes on in the next */
			peer++;
			allowed = 0;
		}
		if (list)
			nla_nest_end(msg, list);
		if (r < 0)
			drop(msg);
		else
			r = talk(&c, msg, NULL);
	}
	nl_socket_free(c.sk);
	return r;
}
