/* The ring in which the library leaves its decisions: memory that the programs write, so it is looked at like anything of
 * theirs. While decisions come, it is looked into on a busy tick; when none came for a while the flag `asleep` makes the next
 * program send word. */
#include "core/run_preload.h"
#include "base/clock.h"
#include "base/mem.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#define QUIET 20                       /* looks before it is called asleep */
#define STUCK_NS (2 * LAT_NS_PER_SEC)  /* a program that took a slot and never filled it has ended */

int lat_preload_ring_new(struct lat_preload *p)
{
	struct lat_shim_ring *ring;

	p->ring_fd = memfd_create("lattice-decisions", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (p->ring_fd < 0 || ftruncate(p->ring_fd, sizeof(*ring)) < 0 ||
		fcntl(p->ring_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	ring = mmap(NULL, sizeof(*ring), PROT_READ | PROT_WRITE, MAP_SHARED, p->ring_fd, 0);
	if (ring == MAP_FAILED)
		return -errno;
	p->ring = ring;
	ring->asleep = 1;
	p->quiet = QUIET;
	return 0;
}

static void next(struct lat_preload *p)
{
	p->tail++;
	p->stuck_ns = 0;
	__atomic_store_n(&p->ring->tail, p->tail, __ATOMIC_SEQ_CST);
}

static void lost(struct lat_preload *p)
{
	struct lat_record r = { .kind = LAT_RECORD_HANDLER, .action = LAT_ACTION_DENY };

	snprintf(r.text, sizeof(r.text), "a program ended while it told a decision: that one is not recorded");
	lat_run_emit(p->run, &r);
	next(p);
}

/* At most as many as there are slots: who writes faster than we read waits on the socket. */
static unsigned drain(struct lat_preload *p, uint64_t now_ns)
{
	unsigned count = 0;

	for (; count < LAT_SHIM_SLOTS; count++) {
		struct lat_shim_slot *slot = &p->ring->slots[p->tail % LAT_SHIM_SLOTS], copy;

		if (__atomic_load_n(&slot->turn, __ATOMIC_SEQ_CST) != p->tail + 1) {
			if (__atomic_load_n(&p->ring->head, __ATOMIC_SEQ_CST) == p->tail)
				break;
			if (!p->stuck_ns)
				p->stuck_ns = now_ns;
			if (now_ns - p->stuck_ns > STUCK_NS)
				lost(p);
			break;
		}
		copy = *slot;
		if (lat_preload_valid(&copy.message, sizeof(copy.message)) && copy.message.type == LAT_SHIM_DECIDED)
			lat_preload_decided(p->run, &copy.message, copy.pid, copy.home, (uid_t)-1);
		next(p);
	}
	return count;
}

void lat_preload_ring_read(struct lat_preload *p, uint64_t now_ns)
{
	if (drain(p, now_ns) > 0) {
		p->quiet = 0;
		return;
	}
	if (p->quiet < QUIET && ++p->quiet < QUIET)
		return;
	__atomic_store_n(&p->ring->asleep, 1, __ATOMIC_SEQ_CST);
	if (drain(p, now_ns) > 0) /* one came just before it could see the flag */
		p->quiet = 0;
}

void lat_preload_tick(struct lat_run *run, uint64_t now_ns)
{
	if (run->preload)
		lat_preload_ring_read(run->preload, now_ns);
}

bool lat_preload_busy(const struct lat_run *run)
{
	return run->preload && run->preload->quiet < QUIET;
}
