/* What the library in the command says and asks. It is the program's own, so a message is what the program says: the pid and uid
 * are the kernel's, the verdict is the policy's (looked up again), and nothing in a message is believed beyond that. */
#include "core/run_preload.h"
#include "base/clock.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define BUDGET 64

static struct lat_preload_home *home_of(struct lat_preload *p, pid_t pid)
{
	return &p->homes[(unsigned)pid % LAT_PRELOAD_HOMES];
}

/* uid -1: the process's own, if it is still there. */
static void identify(struct lat_preload *p, pid_t pid, pid_t home, uid_t uid, struct lat_identity *who)
{
	const struct lat_preload_home *h = home_of(p, home);
	const struct lat_proc *task;

	memset(who, 0, sizeof(*who));
	if (pid > 0 && lat_callers_open(p->callers, pid, &task) == 0)
		lat_callers_who(p->callers, task, who);
	else if (home > 0 && h->pid == home)
		who->uid = h->uid;
	if (!who->exe[0] && home > 0 && h->pid == home)
		memcpy(who->exe, h->exe, sizeof(who->exe));
	who->pid = pid;
	if (uid != (uid_t)-1)
		who->uid = uid;
}

/* It has just fetched the tables. */
static void remember(struct lat_preload *p, pid_t pid, uid_t uid)
{
	struct lat_preload_home *h = home_of(p, pid);
	struct lat_identity who;

	identify(p, pid, 0, uid, &who);
	h->pid = pid;
	h->uid = uid;
	memcpy(h->exe, who.exe, sizeof(h->exe));
}

void lat_preload_asker(struct lat_run *run, int fd, struct lat_identity *who)
{
	struct ucred cred = { 0 };
	socklen_t len = sizeof(cred);

	memset(who, 0, sizeof(*who));
	if (fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0)
		identify(run->preload, cred.pid, cred.pid, cred.uid, who);
}

bool lat_preload_valid(const struct lat_shim_message *m, ssize_t size)
{
	return size == (ssize_t)sizeof(*m) && m->magic == LAT_SHIM_MAGIC && m->abi == LAT_SHIM_ABI &&
		m->flow.dir < LAT_DIR_COUNT;
}

/* Of a bind the local address is known, and nothing of who would come in. */
static struct lat_flow flow_of(const struct lat_shim_message *m)
{
	struct lat_flow f = { .dport = m->flow.port, .proto = m->flow.proto, .dir = m->flow.dir };

	if (!m->bind) {
		f.remote = m->flow.remote;
		return f;
	}
	f.local = m->flow.remote;
	lat_addr_parse(lat_addr_is4(&f.local) ? "0.0.0.0" : "::", &f.remote);
	return f;
}

/* The verdict of the generation that decided. */
static void verdict_of(struct lat_run *run, const struct lat_shim_message *m, const struct lat_flow *flow,
	struct lat_verdict *v)
{
	const struct lat_policy *p = m->generation == run->policy->generation ? run->policy : run->preload->previous;

	memset(v, 0, sizeof(*v));
	v->generation = m->generation;
	v->where = "default";
	if (!p || p->generation != m->generation) {
		v->where = "";
		v->action = m->action == LAT_ACTION_ALLOW || m->action == LAT_ACTION_DROP ? m->action : LAT_ACTION_DENY;
		v->reason = "decided by an older generation";
		return;
	}
	if (!m->bind) {
		lat_policy_judge(p, NULL, flow, 0, v);
	} else if (m->rule && m->rule <= p->spec.rule_count) {
		const struct lat_rule *r = &p->spec.rules[m->rule - 1];

		*v = (struct lat_verdict){ .action = r->action, .err = r->err, .rule = m->rule, .generation = m->generation,
			.where = r->where, .reason = r->reason };
	} else {
		v->action = p->spec.default_action;
	}
	if (m->bind && v->action == LAT_ACTION_ASK) /* who comes in is not known yet: nobody is asked */
		v->action = LAT_ACTION_AUDIT;
	if (m->bind && !lat_verdict_passes(v) && !v->err)
		v->err = EACCES;
}

void lat_preload_decided(struct lat_run *run, const struct lat_shim_message *m, pid_t pid, pid_t home, uid_t uid)
{
	struct lat_flow flow = flow_of(m);
	struct lat_identity who;
	struct lat_run_flow *rf;
	struct lat_verdict v;

	identify(run->preload, pid, home, uid, &who);
	verdict_of(run, m, &flow, &v);
	rf = lat_run_flow_new(run, &flow, &who);
	if (!rf)
		return;
	lat_run_judged(run, rf, &flow, &v);
	lat_run_flow_free(rf);
}

void lat_preload_on_tell(struct lat_poll_item *item, uint32_t events)
{
	struct lat_preload *p = lat_container_of(item, struct lat_preload, tell);

	(void)events;
	for (int i = 0; i < BUDGET; i++) {
		union {
			struct cmsghdr align;
			char room[CMSG_SPACE(sizeof(struct ucred))];
		} control;
		struct lat_shim_message m;
		struct iovec io = { &m, sizeof(m) };
		struct msghdr h = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control.room,
			.msg_controllen = sizeof(control.room) };
		ssize_t n = recvmsg(item->fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&h);
		struct ucred cred = { 0 };

		if (n < 0)
			return;
		if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS)
			memcpy(&cred, CMSG_DATA(c), sizeof(cred));
		if ((h.msg_flags & MSG_TRUNC) || !lat_preload_valid(&m, n))
			continue;
		if (m.type == LAT_SHIM_DECIDED)
			lat_preload_decided(p->run, &m, cred.pid, cred.pid, cred.uid);
		else if (m.type == LAT_SHIM_WAKE)
			lat_preload_ring_read(p, lat_now_ns());
	}
}

/* ---- questions ---- */

static void client_end(struct lat_preload_client *c)
{
	if (c->item.fd < 0)
		return;
	if (c->id)
		lat_run_unask(c->run, c->id);
	if (c->flow)
		lat_run_flow_free(c->flow);
	c->flow = NULL;
	c->id = 0;
	lat_poller_del(c->run->poller, &c->item);
	lat_close(&c->item.fd);
}

static void reply(struct lat_preload_client *c, const struct lat_verdict *v)
{
	struct lat_shim_reply r = { .magic = LAT_SHIM_MAGIC, .abi = LAT_SHIM_ABI, .type = LAT_SHIM_JUDGE };

	r.what = lat_verdict_passes(v) ? LAT_SHIM_ALLOW : v->action == LAT_ACTION_DROP ? LAT_SHIM_DROP : LAT_SHIM_DENY;
	r.err = v->err;
	send(c->item.fd, &r, sizeof(r), MSG_DONTWAIT | MSG_NOSIGNAL);
	client_end(c);
}

static void send_tables(struct lat_preload_client *c)
{
	struct lat_preload *p = c->run->preload;
	struct lat_shim_reply r = { .magic = LAT_SHIM_MAGIC, .abi = LAT_SHIM_ABI, .type = LAT_SHIM_MAP, .size = p->image_size };
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(3 * sizeof(int))];
	} control = { .room = "" };
	struct iovec io = { &r, sizeof(r) };
	struct msghdr h = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control.room,
		.msg_controllen = sizeof(control.room) };
	struct cmsghdr *m = CMSG_FIRSTHDR(&h);
	int fds[] = { p->control_fd, p->image_fd, p->ring_fd };

	m->cmsg_level = SOL_SOCKET;
	m->cmsg_type = SCM_RIGHTS;
	m->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(m), fds, sizeof(fds));
	remember(p, c->pid, c->uid);
	sendmsg(c->item.fd, &h, MSG_DONTWAIT | MSG_NOSIGNAL);
	client_end(c);
}

static bool is_own(const struct lat_preload *p, const struct lat_flow *f)
{
	return lat_addr_is_loopback(&f->remote) && (f->proto == IPPROTO_TCP || f->proto == IPPROTO_UDP) &&
		(p->control->own[f->proto == IPPROTO_UDP][f->dport / 8] >> f->dport % 8 & 1);
}

static void judge(struct lat_preload_client *c, const struct lat_shim_message *m)
{
	struct lat_run *run = c->run;
	struct lat_preload *p = run->preload;
	struct lat_flow flow = flow_of(m);
	struct lat_identity who;
	struct lat_verdict v = { 0 };
	struct lat_question q;
	char text[256];

	if (is_own(p, &flow)) {
		v.action = LAT_ACTION_ALLOW;
		reply(c, &v);
		return;
	}
	identify(p, c->pid, c->pid, c->uid, &who);
	c->flow = lat_run_flow_new(run, &flow, &who);
	if (!c->flow) {
		reply(c, &v);
		return;
	}
	if (lat_run_judge(run, &flow, &who, true, &v, &q, text) == 1) {
		q.id = ++p->next_id;
		if (lat_run_ask(run, &q) == 0) {
			c->id = q.id;
			lat_run_asked(run, q.id, c->flow);
			return;
		}
		v.action = LAT_ACTION_DENY;
		v.reason = "too many questions are waiting for the policy's handlers";
	}
	lat_run_judged(run, c->flow, &flow, &v);
	reply(c, &v);
}

static void bound(struct lat_preload_client *c, const struct lat_shim_message *m)
{
	struct lat_preload *p = c->run->preload;
	const struct lat_verdict v = { .action = LAT_ACTION_ALLOW };

	if (m->flow.proto == IPPROTO_TCP || m->flow.proto == IPPROTO_UDP)
		p->control->own[m->flow.proto == IPPROTO_UDP][m->flow.port / 8] |= (uint8_t)(1u << m->flow.port % 8);
	reply(c, &v);
}

static void on_client(struct lat_poll_item *item, uint32_t events)
{
	struct lat_preload_client *c = lat_container_of(item, struct lat_preload_client, item);
	struct lat_shim_message m;
	ssize_t n = recv(item->fd, &m, sizeof(m), MSG_DONTWAIT);

	(void)events;
	if (n < 0 && errno == EAGAIN)
		return;
	if (c->id || !lat_preload_valid(&m, n)) { /* it went away, or speaks when it should wait */
		client_end(c);
		return;
	}
	if (m.type == LAT_SHIM_MAP)
		send_tables(c);
	else if (m.type == LAT_SHIM_JUDGE && !m.bind)
		judge(c, &m);
	else if (m.type == LAT_SHIM_BOUND)
		bound(c, &m);
	else
		client_end(c);
}

void lat_preload_on_ask(struct lat_poll_item *item, uint32_t events)
{
	struct lat_preload *p = lat_container_of(item, struct lat_preload, ask);

	(void)events;
	for (int i = 0; i < BUDGET; i++) {
		struct lat_preload_client *c = p->clients;
		struct ucred cred = { 0 };
		socklen_t len = sizeof(cred);
		int fd = accept4(item->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0)
			return;
		while (c < p->clients + LAT_PRELOAD_CLIENTS && c->item.fd >= 0)
			c++;
		if (c == p->clients + LAT_PRELOAD_CLIENTS) { /* who is closed on is refused */
			close(fd);
			continue;
		}
		getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len);
		*c = (struct lat_preload_client){ .item = { .fd = fd, .ready = on_client }, .run = p->run, .pid = cred.pid,
			.uid = cred.uid };
		if (lat_poller_add(p->run->poller, &c->item, EPOLLIN) < 0)
			lat_close(&c->item.fd);
	}
}

void lat_preload_answered(struct lat_run *run, uint64_t id, const struct lat_verdict *v)
{
	for (size_t i = 0; i < LAT_PRELOAD_CLIENTS; i++) {
		struct lat_preload_client *c = &run->preload->clients[i];

		if (c->item.fd < 0 || c->id != id)
			continue;
		c->id = 0;
		reply(c, v);
		return;
	}
}

void lat_preload_end_clients(struct lat_preload *p)
{
	for (size_t i = 0; i < LAT_PRELOAD_CLIENTS; i++)
		client_end(&p->clients[i]);
}
