/* See tun.h. */
#include "kernel/tun.h"
#include "base/mem.h"
#include "kernel/link.h"
#include <fcntl.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>

struct lat_tun {
	char name[IFNAMSIZ];
	uint32_t index;
	unsigned queues;
	int fd[LAT_TUN_QUEUES];
};

static int open_queue(const struct lat_tun_options *o, bool first, int *out)
{
	struct ifreq ifr = { .ifr_flags = (short)((o->tap ? IFF_TAP : IFF_TUN) | IFF_NO_PI) };
	lat_autoclose int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (o->queues > 1)
		ifr.ifr_flags |= IFF_MULTI_QUEUE;
	if (first && !o->attach)
		ifr.ifr_flags |= (short)IFF_TUN_EXCL;
	strcpy(ifr.ifr_name, o->name); /* its length was checked */
	if (ioctl(fd, TUNSETIFF, &ifr) < 0)
		/* of a device that must not exist EBUSY says that it does */
		return first && !o->attach && errno == EBUSY ? -EEXIST : -errno;
	*out = lat_take_fd(&fd);
	return 0;
}

int lat_tun_open(const struct lat_tun_options *o, struct lat_tun **out)
{
	unsigned queues = o->queues > 1 ? o->queues : 1;
	lat_autofree struct lat_tun *tun = NULL;
	uint32_t before;
	int r = 0;

	if (!lat_link_name_ok(o->name) || queues > LAT_TUN_QUEUES)
		return -EINVAL;
	before = if_nametoindex(o->name);
	if (o->attach && before == 0)
		return -ENODEV;
	tun = calloc(1, sizeof(*tun));
	if (!tun)
		return -ENOMEM;
	strcpy(tun->name, o->name);
	while (r == 0 && tun->queues < queues) {
		r = open_queue(o, tun->queues == 0, &tun->fd[tun->queues]);
		tun->queues += r == 0;
	}
	if (r == 0) {
		tun->index = if_nametoindex(o->name);
		if (tun->index == 0 || (o->attach && tun->index != before))
			r = -ENODEV; /* it went away, and we made another: closing removes that */
	}
	if (r == 0 && o->persist)
		r = lat_tun_persist(tun, true);
	if (r < 0) {
		for (unsigned i = 0; i < tun->queues; i++)
			close(tun->fd[i]);
		return r;
	}
	*out = lat_take(&tun);
	return 0;
}

void lat_tun_close(struct lat_tun *tun)
{
	if (!tun)
		return;
	for (unsigned i = 0; i < tun->queues; i++)
		close(tun->fd[i]);
	free(tun);
}

const char *lat_tun_name(const struct lat_tun *tun)
{
	return tun->name;
}

uint32_t lat_tun_index(const struct lat_tun *tun)
{
	return tun->index;
}

unsigned lat_tun_queues(const struct lat_tun *tun)
{
	return tun->queues;
}

int lat_tun_fd(const struct lat_tun *tun, unsigned queue)
{
	return tun->fd[queue];
}

int lat_tun_persist(struct lat_tun *tun, bool persist)
{
	return ioctl(tun->fd[0], TUNSETPERSIST, persist ? 1UL : 0UL) < 0 ? -errno : 0;
}

ssize_t lat_tun_read(struct lat_tun *tun, unsigned queue, void *buf, size_t size)
{
	ssize_t n = read(tun->fd[queue], buf, size);

	return n < 0 ? -errno : n;
}

ssize_t lat_tun_write(struct lat_tun *tun, unsigned queue, const void *packet, size_t size)
{
	ssize_t n = write(tun->fd[queue], packet, size);

	return n < 0 ? -errno : n;
}
