/* What is particular to preload mode: no wall, but a library in the command that asks the tables by itself, and us where they do
 * not decide. The library is told where we are by a folder of ours; it sees the tables in sealed memory that we made, and on
 * a page that we alone write which generation counts, and, by a robust mutex that the kernel lets go of, whether we live. */
#include "core/run_preload.h"
#include "core/preload_image.h"
#include "core/preload_place.h"
#include "base/clock.h"
#include "base/mem.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>

_Static_assert(sizeof(pthread_mutex_t) <= sizeof(((struct lat_shim_control *)0)->mutex), "it fits");
_Static_assert(offsetof(pthread_mutex_t, __data.__lock) == 0, "its first word is the owner");

/* The page, with the mutex that says that this thread lives. Whoever maps it from now on can only read. */
static int make_control(struct lat_preload *p)
{
	pthread_mutexattr_t attr;
	struct lat_shim_control *c;
	int r;

	p->control_fd = memfd_create("lattice-control", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (p->control_fd < 0 || ftruncate(p->control_fd, sizeof(*c)) < 0)
		return -errno;
	c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_SHARED, p->control_fd, 0);
	if (c == MAP_FAILED)
		return -errno;
	p->control = c;
	if (fcntl(p->control_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0)
		return -errno;
	c->magic = LAT_SHIM_MAGIC;
	c->abi = LAT_SHIM_ABI;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	r = pthread_mutex_init((pthread_mutex_t *)c->mutex, &attr);
	pthread_mutexattr_destroy(&attr);
	return r ? -r : -pthread_mutex_lock((pthread_mutex_t *)c->mutex);
}

/* Makes the policy's image the one that counts. On failure the one before still does. */
static int publish(struct lat_run *run, const struct lat_policy *policy)
{
	struct lat_preload *p = run->preload;
	uint32_t size;
	int fd = lat_preload_memfd(policy, lat_run_lenient(run), &size);

	if (fd < 0)
		return fd;
	lat_close(&p->image_fd);
	p->image_fd = fd;
	p->image_size = size;
	__atomic_store_n(&p->control->generation, policy->generation, __ATOMIC_SEQ_CST);
	return 0;
}

static int make(struct lat_run *run, struct lat_preload *p, char say[LAT_RUN_SAY])
{
	char library[PATH_MAX];
	int r = lat_preload_library(library);

	if (r < 0) {
		snprintf(say, LAT_RUN_SAY, "%s is not beside this executable, nor is it %.400s", LAT_SHIM_LIBRARY, library);
		return r;
	}
	r = lat_preload_dir_new(p);
	if (r < 0) {
		snprintf(say, LAT_RUN_SAY, "no folder for the library's sockets can be made in /tmp: %s", strerror(-r));
		return r;
	}
	r = lat_preload_environment(library, p->dir, &p->environment);
	if (r == -EINVAL)
		snprintf(say, LAT_RUN_SAY, "%.500s: a path with ' ', ':' or '$' cannot stand in LD_PRELOAD; install it elsewhere", library);
	if (r < 0)
		return r;
	if ((p->tell.fd = r = lat_preload_listen(p, "tell", SOCK_DGRAM)) < 0 ||
		(p->ask.fd = r = lat_preload_listen(p, "ask", SOCK_SEQPACKET)) < 0 ||
		(p->dns = r = lat_preload_listen(p, "dns", SOCK_STREAM)) < 0)
		return r;
	p->no_udp = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); /* the server wants one; nobody sends */
	if (p->no_udp < 0)
		return -errno;
	r = make_control(p);
	if (r == 0)
		r = lat_preload_ring_new(p);
	return r < 0 ? r : publish(run, run->policy);
}

static int prepare(struct lat_run *run, struct lat_launch_spec *spec, char say[LAT_RUN_SAY])
{
	struct lat_preload *p;
	int r;

	if (getenv(LAT_SHIM_VARIABLE)) {
		snprintf(say, LAT_RUN_SAY, "this process is already under preload mode (%s is set), which does not nest: run the "
			"command itself, the policy around it holds", LAT_SHIM_VARIABLE);
		return -EPERM;
	}
	p = run->preload = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->run = run;
	p->control_fd = p->image_fd = p->ring_fd = p->dns = p->no_udp = p->tell.fd = p->ask.fd = -1;
	for (size_t i = 0; i < LAT_PRELOAD_CLIENTS; i++)
		p->clients[i].item.fd = -1;
	r = make(run, p, say);
	if (r < 0) {
		if (!say[0])
			snprintf(say, LAT_RUN_SAY, "cannot set up preload mode in %s: %s", p->dir, strerror(-r));
		return r;
	}
	spec->network = LAT_NETWORK_PLAIN;
	spec->environment = p->environment;
	return 0;
}

static int open_sockets(struct lat_run *run, struct lat_dns_options *dns)
{
	struct lat_preload *p = run->preload;
	int r;

	p->tell.ready = lat_preload_on_tell;
	p->ask.ready = lat_preload_on_ask;
	if ((r = lat_callers_new(-1, &p->callers)) < 0 || (r = lat_poller_add(run->poller, &p->tell, EPOLLIN)) < 0 ||
		(r = lat_poller_add(run->poller, &p->ask, EPOLLIN)) < 0)
		return r;
	dns->udp = p->no_udp;
	dns->tcp = p->dns;
	if (!run->options->no_summary && !run->options->json)
		fprintf(stderr, "lattice: mode preload is advisory: it holds programs that use libc and do not resist; static "
			"programs, direct system calls and `env -u LD_PRELOAD` go round it\n");
	return 0;
}

static void tick(struct lat_run *run, uint64_t now_ns)
{
	(void)run; /* lat_preload_tick comes more often */
	(void)now_ns;
}

/* The next call of each program meets the new generation. */
static int take(struct lat_run *run, struct lat_policy *policy, char say[LAT_RUN_SAY])
{
	struct lat_preload *p = run->preload;
	int r = publish(run, policy);

	if (r < 0) {
		snprintf(say, LAT_RUN_SAY, "cannot make the tables: %s", strerror(-r));
		return r;
	}
	lat_policy_unref(p->previous);
	p->previous = lat_policy_ref(run->policy);
	return 0;
}

/* Open connections are the programs' own. */
static size_t cut(struct lat_run *run)
{
	(void)run;
	return 0;
}

static void end(struct lat_run *run, char say[LAT_RUN_SAY])
{
	struct lat_preload *p = run->preload;

	snprintf(say, LAT_RUN_SAY, "preload mode is advisory: what went round the library is not in here");
	pthread_mutex_unlock((pthread_mutex_t *)p->control->mutex); /* whoever is left is refused from now on */
	if (run->audit) { /* the last words */
		lat_preload_on_tell(&p->tell, EPOLLIN);
		lat_preload_ring_read(p, lat_now_ns());
	}
	lat_preload_end_clients(p);
}

static void close_all(struct lat_run *run)
{
	struct lat_preload *p = run->preload;

	if (!p)
		return;
	lat_preload_end_clients(p);
	if (p->callers) {
		lat_poller_del(run->poller, &p->tell);
		lat_poller_del(run->poller, &p->ask);
	}
	lat_callers_free(p->callers);
	lat_preload_dir_remove(p);
	if (p->control)
		munmap(p->control, sizeof(*p->control));
	lat_close(&p->control_fd);
	if (p->ring)
		munmap(p->ring, sizeof(*p->ring));
	lat_close(&p->image_fd);
	lat_close(&p->ring_fd);
	lat_close(&p->dns);
	lat_close(&p->no_udp);
	lat_close(&p->tell.fd);
	lat_close(&p->ask.fd);
	lat_policy_unref(p->previous);
	free(p->environment);
	free(p);
	run->preload = NULL;
}

const struct lat_run_mode lat_run_preload = { .name = "preload", .prepare = prepare, .open = open_sockets, .tick = tick,
	.take = take, .cut = cut, .answered = lat_preload_answered, .end = end, .close = close_all };
