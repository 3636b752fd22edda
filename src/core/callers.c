/* See callers.h. */
#include "core/callers.h"
#include "base/clock.h"
#include "base/mem.h"
#include "kernel/diag.h"
#include <string.h>

#define TASKS 32    /* two descriptors each */
#define ORIGINS 512 /* a power of two */
/* A search of /proc is followed by this many times its length without one: a program with many descriptors and sockets must
 * not keep the loop busy. Who sent it stays unknown then. */
#define SEARCH_REST 4

struct task {
	struct lat_proc proc; /* tid 0: free */
	uid_t uid;
	uint64_t used;
};

struct origin {
	uint16_t sport; /* 0: free */
	uint8_t proto;
	struct lat_addr remote;
	struct lat_identity who;
};

struct lat_callers {
	int diag;
	uint64_t netns; /* inode number of the sandbox's network namespace, 0: unknown */
	uint64_t clock;
	struct task tasks[TASKS];
	struct lat_proc_hint hint;
	uint64_t search_ns; /* not before */
	struct origin origins[ORIGINS];
};

int lat_callers_new(int diag, struct lat_callers **out)
{
	struct lat_callers *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->diag = diag;
	c->netns = lat_proc_socket_netns(diag);
	for (size_t i = 0; i < TASKS; i++)
		c->tasks[i].proc = (struct lat_proc){ .pidfd = -1, .dir = -1 };
	*out = c;
	return 0;
}

void lat_callers_free(struct lat_callers *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < TASKS; i++)
		lat_proc_close(&c->tasks[i].proc);
	free(c);
}

/* The entry of tid, else the one to use for it (unused longest). */
static struct task *slot_of(struct lat_callers *c, pid_t tid)
{
	struct task *oldest = &c->tasks[0];

	for (size_t i = 0; i < TASKS; i++) {
		if (c->tasks[i].proc.tid == tid)
			return &c->tasks[i];
		if (c->tasks[i].used < oldest->used)
			oldest = &c->tasks[i];
	}
	return oldest;
}

static int open_task(struct lat_callers *c, pid_t tid, bool fresh, struct task **out)
{
	struct task *t = slot_of(c, tid);
	struct lat_proc proc;
	int r;

	t->used = ++c->clock;
	if (t->proc.tid == tid && t->proc.exact && !fresh) {
		*out = t;
		return 0;
	}
	r = lat_proc_open(tid, &proc);
	lat_proc_close(&t->proc);
	if (r < 0) {
		t->used = 0;
		return r;
	}
	t->proc = proc;
	if (lat_proc_uid(&t->proc, &t->uid) < 0)
		t->uid = (uid_t)-1;
	*out = t;
	return 0;
}

int lat_callers_open(struct lat_callers *c, pid_t tid, const struct lat_proc **out)
{
	struct task *t;
	int r = open_task(c, tid, false, &t);

	if (r == 0)
		*out = &t->proc;
	return r;
}

int lat_callers_getfd(struct lat_callers *c, pid_t tid, int fd, const struct lat_proc **task)
{
	struct task *t;
	int r = open_task(c, tid, false, &t), copy;

	if (r < 0)
		return r;
	copy = lat_proc_getfd(&t->proc, fd);
	if (copy == -ESRCH) { /* the number has a new owner */
		r = open_task(c, tid, true, &t);
		if (r < 0)
			return r;
		copy = lat_proc_getfd(&t->proc, fd);
	}
	*task = &t->proc;
	return copy;
}

void lat_callers_who(struct lat_callers *c, const struct lat_proc *task, struct lat_identity *who)
{
	const struct task *t = lat_container_of(task, struct task, proc);

	who->pid = task->pid;
	who->uid = t->uid;
	if (lat_proc_exe(task, who->exe, sizeof(who->exe)) < 0) /* asked each time: exec keeps the number */
		who->exe[0] = '\0';
}

static struct origin *origin_of(struct lat_callers *c, uint8_t proto, uint16_t sport)
{
	return &c->origins[(sport ^ (unsigned)proto << 5) & (ORIGINS - 1)];
}

void lat_callers_remember(struct lat_callers *c, uint8_t proto, uint16_t sport,
	const struct lat_addr *remote, const struct lat_identity *who)
{
	struct origin *o = origin_of(c, proto, sport);

	if (sport == 0)
		return;
	o->sport = sport;
	o->proto = proto;
	o->remote = *remote;
	o->who = *who;
}

bool lat_callers_find(struct lat_callers *c, const struct lat_flow *flow, struct lat_identity *who)
{
	const struct origin *o = origin_of(c, flow->proto, flow->sport);
	struct lat_diag_socket socket;
	const struct lat_proc *task = NULL;
	uint64_t begin, end;
	pid_t pid;

	memset(who, 0, sizeof(*who));
	if (flow->sport == 0 || flow->dir != LAT_DIR_OUT)
		return false;
	if (o->sport == flow->sport && o->proto == flow->proto && lat_addr_equal(&o->remote, &flow->remote)) {
		*who = o->who;
		return true;
	}
	if (lat_diag_inet(c->diag, flow->proto, &flow->local, flow->sport, &flow->remote, flow->dport, &socket) < 0)
		return false;
	begin = lat_now_ns();
	if (begin < c->search_ns && socket.inode != c->hint.inode)
		return false;
	pid = lat_proc_find_socket(socket.inode, c->netns, &c->hint);
	end = lat_now_ns();
	c->search_ns = end + SEARCH_REST * (end - begin);
	if (pid < 0 || lat_callers_open(c, pid, &task) < 0)
		return false;
	lat_callers_who(c, task, who);
	return true;
}
