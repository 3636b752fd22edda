/* TUN and TAP devices: packets (or frames) of a network device, read and written by a process. Without packet information:
 * what is read is the packet itself. */
#ifndef LAT_KERNEL_TUN_H
#define LAT_KERNEL_TUN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define LAT_TUN_QUEUES 16  /* at most, of one device */
#define LAT_TUN_PACKET 65536

struct lat_tun_options {
	const char *name; /* checked: -EINVAL for what is no name of a device */
	bool tap;         /* Ethernet frames; else IP packets */
	bool attach;      /* to a device that exists (-ENODEV if not); else it is made (-EEXIST if the name is taken) */
	bool persist;     /* it stays when it is closed */
	unsigned queues;  /* 0 and 1: one; more: the kernel spreads flows over them */
};

struct lat_tun;

/* Also -ENXIO or -ENOENT without a TUN driver, -EPERM without CAP_NET_ADMIN, -EBUSY when somebody else has it open, -EINVAL when
 * what exists is of the other kind or has the other number of queues. */
int lat_tun_open(const struct lat_tun_options *options, struct lat_tun **out);
/* The device is removed with its last descriptor unless it persists. NULL is fine. */
void lat_tun_close(struct lat_tun *tun);

const char *lat_tun_name(const struct lat_tun *tun);
uint32_t lat_tun_index(const struct lat_tun *tun);
unsigned lat_tun_queues(const struct lat_tun *tun);
/* Nonblocking, close-on-exec; not the caller's to close. */
int lat_tun_fd(const struct lat_tun *tun, unsigned queue);
int lat_tun_persist(struct lat_tun *tun, bool persist);
/* One packet. Its length, or negative errno: -EAGAIN when there is none (no room), -EIO while the device is down, -EBADFD when it
 * was deleted. */
ssize_t lat_tun_read(struct lat_tun *tun, unsigned queue, void *buf, size_t size);
ssize_t lat_tun_write(struct lat_tun *tun, unsigned queue, const void *packet, size_t size);

#endif
