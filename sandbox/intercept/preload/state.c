/* Where the supervisor is, and the tables that it gave us.
 *
 * A generation is a slot: an image and how many look into it. `current` names the slot in use; whoever meets another
 * generation on the control page fetches it into a slot that nobody looks into, then names that. A slot that is claimed has a
 * count far below zero, so that a late reader sees it and goes round again. Who finds somebody else fetching (another thread,
 * or the very code that this signal handler interrupted) asks the supervisor instead: nobody waits for anybody here. */
#include "shim.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>

#define SLOTS 4
#define CLAIMED (-(1 << 30))
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

struct slot {
	int readers;
	uint32_t generation;
	const struct lat_shim_image *image;
	size_t size;
};

static struct slot slots[SLOTS];
static int current;  /* slot + 1, 0: none */
static long fetching; /* the process that fetches, 0: none */
static const struct lat_shim_control *control_page;
static struct lat_shim_ring *ring;
static int home;
static int *pid_page; /* empty again in a child of fork; NULL: there is no such page here */
static char directory[LAT_SHIM_PATH_MAX];
static int directory_known; /* 1: read; -1: there is none */

void *lat_shim_next[LAT_NEXT_COUNT];
extern char **environ;

#define GET(p) __atomic_load_n(p, __ATOMIC_SEQ_CST)
#define SET(p, v) __atomic_store_n(p, v, __ATOMIC_SEQ_CST)
#define ADD(p, v) __atomic_add_fetch(p, v, __ATOMIC_SEQ_CST)

static bool swap(long *p, long from, long to)
{
	return __atomic_compare_exchange_n(p, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Read once; two threads that do so at the same time write the same. */
static bool find_directory(void)
{
	int known = GET(&directory_known);

	for (char **e = known ? NULL : environ; e && *e; e++) {
		size_t n = sizeof(LAT_SHIM_VARIABLE) - 1, len;

		if (strncmp(*e, LAT_SHIM_VARIABLE "=", n + 1) != 0)
			continue;
		len = strlen(*e + n + 1);
		if (len == 0 || len >= sizeof(directory) || (*e)[n + 1] != '/')
			break;
		memcpy(directory, *e + n + 1, len + 1);
		known = 1;
		break;
	}
	SET(&directory_known, known ? known : -1);
	return GET(&directory_known) > 0;
}

const char *lat_shim_path(const char *leaf, char buf[108])
{
	size_t n, k = strlen(leaf);

	if (!find_directory())
		return NULL;
	n = strlen(directory);
	memcpy(buf, directory, n);
	buf[n] = '/';
	memcpy(buf + n + 1, leaf, k + 1);
	return buf;
}

static bool alive(const struct lat_shim_control *c)
{
	uint32_t owner = GET(&c->owner);

	return owner != 0 && !(owner & LAT_SHIM_OWNER_DIED);
}

/* A sealed memfd of ours can be read without a fault; anything else is not looked at. */
static void *map(int fd, size_t size, int seals, int access)
{
	void *at;

	if (syscall(SYS_fcntl, fd, F_GET_SEALS) < 0 || (syscall(SYS_fcntl, fd, F_GET_SEALS) & seals) != seals ||
		syscall(SYS_lseek, fd, 0, SEEK_END) < (long)size)
		return NULL;
	at = mmap(NULL, size, access, MAP_SHARED, fd, 0);
	return at == MAP_FAILED ? NULL : at;
}

static void take_ring(int fd)
{
	struct lat_shim_ring *none = NULL, *at;

	if (GET(&ring))
		return;
	at = map(fd, sizeof(*at), F_SEAL_SHRINK | F_SEAL_GROW, PROT_READ | PROT_WRITE);
	if (!at)
		return;
	home = lat_shim_pid();
	if (!__atomic_compare_exchange_n(&ring, &none, at, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		munmap(at, sizeof(*at));
}

struct lat_shim_ring *lat_shim_ring(int *whose)
{
	*whose = home;
	return GET(&ring);
}

int lat_shim_pid(void)
{
	int *page = GET(&pid_page), pid = page ? GET(page) : 0;

	if (!pid) {
		pid = (int)syscall(SYS_getpid);
		if (page)
			SET(page, pid);
	}
	return pid;
}

static void take_control(int fd)
{
	const struct lat_shim_control *c, *none = NULL;

	if (GET(&control_page))
		return;
	c = map(fd, sizeof(*c), F_SEAL_SHRINK | F_SEAL_GROW, PROT_READ);
	if (!c)
		return;
	if (c->magic != LAT_SHIM_MAGIC || c->abi != LAT_SHIM_ABI ||
		!__atomic_compare_exchange_n(&control_page, &none, c, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		munmap((void *)c, sizeof(*c));
}

/* A slot that is not in use and that nobody looks into; -1: none. */
static int claim(void)
{
	for (int i = 0; i < SLOTS; i++) {
		int none = 0;

		if (GET(&current) != i + 1 &&
			__atomic_compare_exchange_n(&slots[i].readers, &none, CLAIMED, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
			if (GET(&current) != i + 1)
				return i;
			ADD(&slots[i].readers, -CLAIMED);
		}
	}
	return -1;
}

static int take_image(int fd, size_t size)
{
	const struct lat_shim_image *image;
	int i = claim();

	if (i < 0)
		return -EAGAIN;
	if (slots[i].image)
		munmap((void *)slots[i].image, slots[i].size);
	slots[i].image = NULL;
	image = map(fd, size, SEALS, PROT_READ);
	if (image && lat_shim_valid(image, size)) {
		slots[i].image = image;
		slots[i].size = size;
		slots[i].generation = image->generation;
		SET(&current, i + 1);
	} else if (image) {
		munmap((void *)image, size);
	}
	ADD(&slots[i].readers, -CLAIMED);
	return slots[i].image ? 0 : -EBADMSG;
}

static int fetch(void)
{
	struct lat_shim_message m = { .magic = LAT_SHIM_MAGIC, .abi = LAT_SHIM_ABI, .type = LAT_SHIM_MAP };
	long me = syscall(SYS_getpid), other = GET(&fetching);
	struct lat_shim_reply reply;
	int fds[LAT_SHIM_FDS] = { -1, -1, -1 }, r;

	/* A child of fork may have inherited the mark of a thread that it does not have. */
	if (other == me || !swap(&fetching, other, me))
		return -EAGAIN;
	r = lat_shim_ask(&m, &reply, fds);
	if (r == 0) {
		take_control(fds[0]);
		take_ring(fds[2]);
		r = take_image(fds[1], reply.size);
	}
	for (int i = 0; i < LAT_SHIM_FDS; i++)
		if (fds[i] >= 0)
			syscall(SYS_close, fds[i]);
	SET(&fetching, 0);
	return r;
}

/* The view of the slot in use, if that is of this generation. */
static bool look(struct lat_shim_view *view, uint32_t generation)
{
	int at = GET(&current);
	struct slot *s = &slots[at ? at - 1 : 0];

	if (!at)
		return false;
	if (ADD(&s->readers, 1) > 0 && GET(&current) == at && s->generation == generation) {
		view->image = s->image;
		view->slot = at - 1;
		return true;
	}
	ADD(&s->readers, -1);
	return false;
}

int lat_shim_acquire(struct lat_shim_view *view)
{
	for (int tries = 0; tries < 8; tries++) {
		const struct lat_shim_control *c = GET(&control_page);
		int r;

		if (c) {
			if (!alive(c))
				return -ECONNREFUSED;
			view->control = c;
			if (look(view, GET(&c->generation)))
				return 0;
		}
		r = fetch();
		if (r < 0)
			return r == -EAGAIN ? -EAGAIN : -ECONNREFUSED;
	}
	return -EAGAIN;
}

void lat_shim_release(const struct lat_shim_view *view)
{
	ADD(&slots[view->slot].readers, -1);
}

__attribute__((constructor)) static void start(void)
{
	static const char *const names[LAT_NEXT_COUNT] = { "connect", "bind", "listen", "sendto", "sendmsg", "sendmmsg",
		"socket", "setsockopt", "accept", "accept4" };
	int keep = errno, *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page != MAP_FAILED && syscall(SYS_madvise, page, 4096L, MADV_WIPEONFORK) == 0)
		SET(&pid_page, page);
	else if (page != MAP_FAILED)
		munmap(page, 4096);
	for (int i = 0; i < LAT_NEXT_COUNT; i++)
		SET(&lat_shim_next[i], dlsym(RTLD_NEXT, names[i]));
	find_directory();
	errno = keep;
}
