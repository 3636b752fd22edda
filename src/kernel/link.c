/* See link.h. The messages are made and read with libnl's core; not with libnl-route's objects, which keep only a rough class
 * of the kernel's answer and parse text more loosely than we may ("/33"). */
#include "kernel/link_impl.h"
#include "base/mem.h"
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define FLAG_LOWER_UP (1u << 16) /* IFF_LOWER_UP: linux/if.h does not go with net/if.h */

bool lat_link_name_ok(const char *name)
{
	size_t n = strlen(name);

	if (n == 0 || n >= IFNAMSIZ || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return false;
	for (const unsigned char *p = (const unsigned char *)name; *p; p++) {
		if (*p <= ' ' || *p == 0x7f || *p == '/' || *p == ':' || *p == '%')
			return false;
	}
	return true;
}

/* ---- the socket ---- */

int lat_links_socket(int fd, struct nl_sock **out)
{
	struct sockaddr_nl any = { .nl_family = AF_NETLINK };
	lat_autoclose int own = fd >= 0 ? fd : socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	struct nl_sock *sk;

	if (own < 0 || bind(own, (struct sockaddr *)&any, sizeof(any)) < 0)
		return -errno;
	sk = nl_socket_alloc();
	if (!sk)
		return -ENOMEM;
	if (nl_socket_set_fd(sk, NETLINK_ROUTE, own) < 0) {
		nl_socket_free(sk);
		return -EBADF;
	}
	lat_take_fd(&own);
	*out = sk;
	return 0;
}

int lat_links_open(int fd, struct lat_links **out)
{
	lat_autofree struct lat_links *links = calloc(1, sizeof(*links));
	int r;

	if (!links) {
		lat_close(&fd);
		return -ENOMEM;
	}
	r = lat_links_socket(fd, &links->sk);
	if (r < 0)
		return r;
	fcntl(nl_socket_get_fd(links->sk), F_SETFL, 0); /* answers are there at once: wait for them */
	*out = lat_take(&links);
	return 0;
}

void lat_links_close(struct lat_links *links)
{
	if (!links)
		return;
	nl_socket_free(links->sk);
	free(links);
}

struct exchange {
	struct lat_links *links;
	struct nl_msg **list; /* answers */
	size_t count, room;
	bool done, changed;
};

static int on_valid(struct nl_msg *msg, void *arg)
{
	struct exchange *x = arg;

	if (x->count == x->room) {
		size_t room = x->room ? x->room * 2 : 16;
		struct nl_msg **list = reallocarray(x->list, room, sizeof(*list));

		if (!list) {
			x->links->error = -ENOMEM;
			x->done = true;
			return NL_STOP;
		}
		x->list = list;
		x->room = room;
	}
	nlmsg_get(msg);
	x->list[x->count++] = msg;
	return NL_OK;
}

static int on_end(struct nl_msg *msg, void *arg)
{
	((struct exchange *)arg)->done = true;
	return NL_STOP;
}

static int on_changed(struct nl_msg *msg, void *arg)
{
	((struct exchange *)arg)->changed = true;
	return NL_OK;
}

static int on_error(struct sockaddr_nl *from, struct nlmsgerr *e, void *arg)
{
	struct exchange *x = arg;

	x->links->error = e->error;
	x->done = true;
	return NL_STOP;
}

static void forget(struct exchange *x)
{
	for (size_t i = 0; i < x->count; i++)
		nlmsg_free(x->list[i]);
	free(x->list);
	x->list = NULL;
	x->count = x->room = 0;
}

/* Sends msg and collects what comes until the kernel says that it was all. */
static int exchange(struct lat_links *links, struct nl_msg *msg, struct exchange *x)
{
	struct nl_cb *cb = nl_cb_alloc(NL_CB_CUSTOM);
	int r = 0;

	if (!cb)
		return -ENOMEM;
	links->error = 0;
	nl_cb_set(cb, NL_CB_VALID, NL_CB_CUSTOM, on_valid, x);
	nl_cb_set(cb, NL_CB_FINISH, NL_CB_CUSTOM, on_end, x);
	nl_cb_set(cb, NL_CB_ACK, NL_CB_CUSTOM, on_end, x);
	nl_cb_set(cb, NL_CB_DUMP_INTR, NL_CB_CUSTOM, on_changed, x);
	nl_cb_err(cb, NL_CB_CUSTOM, on_error, x);
	r = nl_send_auto(links->sk, msg);
	while (r >= 0 && !x->done)
		r = nl_recvmsgs(links->sk, cb);
	nl_cb_put(cb);
	return lat_links_result(links, r);
}

int lat_links_result(struct lat_links *links, int nl)
{
	if (links->error < 0)
		return links->error;
	if (nl >= 0)
		return 0;
	return nl == -NLE_NOMEM ? -ENOMEM : nl == -NLE_MSGSIZE ? -EMSGSIZE : -EIO;
}

int lat_links_do(struct lat_links *links, struct nl_msg *msg)
{
	struct exchange x = { links };
	int r = exchange(links, msg, &x);

	nlmsg_free(msg);
	forget(&x);
	return r;
}

int lat_links_dump(struct lat_links *links, int type, const void *header, size_t size, lat_links_each *each, void *arg)
{
	for (int tries = 0;; tries++) {
		struct nl_msg *msg = nlmsg_alloc_simple(type, NLM_F_DUMP);
		struct exchange x = { links };
		int r;

		if (!msg)
			return -ENOMEM;
		if (nlmsg_append(msg, (void *)(uintptr_t)header, size, NLMSG_ALIGNTO) < 0) {
			nlmsg_free(msg);
			return -ENOMEM;
		}
		r = exchange(links, msg, &x);
		nlmsg_free(msg);
		if (r == 0 && x.changed && tries < 8) { /* not of one moment: once more */
			forget(&x);
			continue;
		}
		for (size_t i = 0; r == 0 && i < x.count; i++)
			r = each(links, nlmsg_hdr(x.list[i]), arg);
		forget(&x);
		return r;
	}
}

/* ---- links ---- */

static void copy(char *to, size_t size, const struct nlattr *a)
{
	size_t n = a ? strnlen(nla_data(a), (size_t)nla_len(a)) : 0;

	snprintf(to, size, "%.*s", (int)n, a ? (const char *)nla_data(a) : "");
}

bool lat_link_decode(const struct nlmsghdr *h, struct lat_link *out)
{
	struct nlattr *tb[IFLA_MAX + 1], *info[IFLA_INFO_MAX + 1];
	const struct ifinfomsg *m;

	if ((h->nlmsg_type != RTM_NEWLINK && h->nlmsg_type != RTM_DELLINK) ||
		nlmsg_parse((struct nlmsghdr *)(uintptr_t)h, sizeof(*m), tb, IFLA_MAX, NULL) < 0)
		return false;
	m = nlmsg_data(h);
	if (m->ifi_family != AF_UNSPEC) /* a bridge's view of its port */
		return false;
	memset(out, 0, sizeof(*out));
	out->index = (uint32_t)m->ifi_index;
	out->up = m->ifi_flags & IFF_UP;
	out->running = m->ifi_flags & FLAG_LOWER_UP;
	copy(out->name, sizeof(out->name), tb[IFLA_IFNAME]);
	copy(out->alias, sizeof(out->alias), tb[IFLA_IFALIAS]);
	copy(out->qdisc, sizeof(out->qdisc), tb[IFLA_QDISC]);
	if (tb[IFLA_MTU] && nla_len(tb[IFLA_MTU]) >= 4)
		out->mtu = nla_get_u32(tb[IFLA_MTU]);
	if (tb[IFLA_ADDRESS] && nla_len(tb[IFLA_ADDRESS]) == 6) {
		const uint8_t *b = nla_data(tb[IFLA_ADDRESS]);

		snprintf(out->mac, sizeof(out->mac), "%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5]);
	}
	if (tb[IFLA_LINKINFO] && nla_parse_nested(info, IFLA_INFO_MAX, tb[IFLA_LINKINFO], NULL) == 0)
		copy(out->kind, sizeof(out->kind), info[IFLA_INFO_KIND]);
	return true;
}

struct each_link {
	lat_link_fn *fn;
	void *ctx;
};

static int each_link(struct lat_links *links, const struct nlmsghdr *h, void *arg)
{
	struct each_link *each = arg;
	struct lat_link link;

	if (lat_link_decode(h, &link))
		each->fn(each->ctx, &link);
	return 0;
}

int lat_link_list(struct lat_links *links, lat_link_fn *fn, void *ctx)
{
	struct ifinfomsg m = { .ifi_family = AF_UNSPEC };
	struct each_link each = { fn, ctx };

	return lat_links_dump(links, RTM_GETLINK, &m, sizeof(m), each_link, &each);
}

/* A message about the device `index`, or NULL. */
static struct nl_msg *about(int type, int flags, const struct ifinfomsg *m)
{
	struct nl_msg *msg = nlmsg_alloc_simple(type, flags);

	if (msg && nlmsg_append(msg, (void *)(uintptr_t)m, sizeof(*m), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(msg);
		return NULL;
	}
	return msg;
}

int lat_link_get(struct lat_links *links, const char *name, struct lat_link *out)
{
	struct ifinfomsg m = { .ifi_family = AF_UNSPEC };
	struct exchange x = { links };
	struct nl_msg *msg;
	struct lat_link link;
	int r;

	if (!lat_link_name_ok(name))
		return -ENODEV;
	msg = about(RTM_GETLINK, 0, &m);
	if (!msg || nla_put_string(msg, IFLA_IFNAME, name) < 0) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	r = exchange(links, msg, &x);
	nlmsg_free(msg);
	if (r == 0)
		r = x.count > 0 && lat_link_decode(nlmsg_hdr(x.list[0]), &link) ? 0 : -ENODEV;
	forget(&x);
	if (r == 0)
		*out = link;
	return r;
}

int lat_link_set(struct lat_links *links, uint32_t index, const struct lat_link_change *c)
{
	struct ifinfomsg m = { .ifi_family = AF_UNSPEC, .ifi_index = (int)index,
		.ifi_change = c->set_up ? IFF_UP : 0, .ifi_flags = c->set_up && c->up ? IFF_UP : 0 };
	struct nl_msg *msg;

	if (c->rename && !lat_link_name_ok(c->rename))
		return -EINVAL;
	if (c->alias && strlen(c->alias) >= sizeof(((struct lat_link *)0)->alias))
		return -ENAMETOOLONG;
	msg = about(RTM_NEWLINK, 0, &m);
	if (!msg || (c->mtu && nla_put_u32(msg, IFLA_MTU, c->mtu) < 0) ||
		(c->rename && nla_put_string(msg, IFLA_IFNAME, c->rename) < 0) ||
		(c->alias && nla_put(msg, IFLA_IFALIAS, (int)strlen(c->alias), c->alias) < 0) ||
		(c->netns && nla_put_u32(msg, IFLA_NET_NS_FD, (uint32_t)c->netns) < 0)) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	return lat_links_do(links, msg);
}

int lat_link_add(struct lat_links *links, const char *kind, const char *name)
{
	struct ifinfomsg m = { .ifi_family = AF_UNSPEC };
	struct nlattr *info;
	struct nl_msg *msg;

	if (!lat_link_name_ok(name))
		return -EINVAL;
	msg = about(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &m);
	if (!msg || nla_put_string(msg, IFLA_IFNAME, name) < 0 || !(info = nla_nest_start(msg, IFLA_LINKINFO)) ||
		nla_put_string(msg, IFLA_INFO_KIND, kind) < 0) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	nla_nest_end(msg, info);
	return lat_links_do(links, msg);
}

int lat_link_add_veth(struct lat_links *links, const char *name, const char *peer, int netns)
{
	struct ifinfomsg m = { .ifi_family = AF_UNSPEC };
	struct nlattr *info, *data, *other;
	struct nl_msg *msg;

	if (!lat_link_name_ok(name) || !lat_link_name_ok(peer))
		return -EINVAL;
	msg = about(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &m);
	if (!msg || nla_put_string(msg, IFLA_IFNAME, name) < 0 || !(info = nla_nest_start(msg, IFLA_LINKINFO)) ||
		nla_put_string(msg, IFLA_INFO_KIND, "veth") < 0 || !(data = nla_nest_start(msg, IFLA_INFO_DATA)) ||
		!(other = nla_nest_start(msg, VETH_INFO_PEER)) ||
		nlmsg_append(msg, &m, sizeof(m), NLMSG_ALIGNTO) < 0 || nla_put_string(msg, IFLA_IFNAME, peer) < 0 ||
		(netns && nla_put_u32(msg, IFLA_NET_NS_FD, (uint32_t)netns) < 0)) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	nla_nest_end(msg, other);
	nla_nest_end(msg, data);
	nla_nest_end(msg, info);
	return lat_links_do(links, msg);
}

int lat_link_delete(struct lat_links *links, uint32_t index)
{
	struct ifinfomsg m = { .ifi_family = AF_UNSPEC, .ifi_index = (int)index };
	struct nl_msg *msg;

	if (index == 0)
		return -ENODEV;
	msg = about(RTM_DELLINK, 0, &m);
	return msg ? lat_links_do(links, msg) : -ENOMEM;
}
