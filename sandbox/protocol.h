/* Messages between supervisor and init over a SOCK_SEQPACKET pair: one struct lat_msg a packet, descriptors beside it by
 * SCM_RIGHTS. Both ends are the same binary, so there is no version. A packet of another size is ignored. */
#ifndef LAT_SANDBOX_PROTOCOL_H
#define LAT_SANDBOX_PROTOCOL_H
#include <stdint.h>

#define LAT_MSG_MAX_FDS 64

enum lat_msg_type {
	/* supervisor -> init */
	LAT_MSG_PROBE = 1,  /* run the self-check in the confined child */
	LAT_MSG_GO,         /* exec the command */
	LAT_MSG_SIGNAL,     /* value: signal number for the command */
	LAT_MSG_WANT,       /* value: number of UDP sockets wanted */
	/* init -> supervisor */
	LAT_MSG_READY,      /* with the descriptors of struct lat_sandbox */
	LAT_MSG_PROBED,     /* value: bit set of enum lat_probe that were NOT refused (0: the wall holds); extra: probes run */
	LAT_MSG_SOCKETS,    /* with descriptors */
	LAT_MSG_EXECED,     /* the command runs; value: its pid in init's namespace */
	LAT_MSG_EXIT,       /* value: exit status of the command as the shell sees it (128+n for a signal) */
	LAT_MSG_FAILED      /* value: errno; text: what failed. extra: exit status to use (125, 126, 127) */
};

/* What the self-check tries. */
enum lat_probe {
	LAT_PROBE_CONNECT,   /* connect(2) to LAT_PROBE_ADDR4: refused by the supervisor at the call */
	LAT_PROBE_FASTOPEN,  /* sendto(MSG_FASTOPEN): no trapped call, refused by the wall */
	LAT_PROBE_UDP,       /* sendto on UDP: queued and refused */
	LAT_PROBE_PACKET,    /* socket(AF_PACKET) */
	LAT_PROBE_USERNS,    /* unshare(CLONE_NEWUSER) */
	LAT_PROBE_IO_URING,  /* io_uring_setup */
	LAT_PROBE_CGROUP,    /* a cgroup mount that can be written, or its cgroup.procs opened for writing */
	LAT_PROBE_COUNT
};

struct lat_msg {
	uint32_t type;
	int32_t value;
	uint32_t extra;
	char text[244];
};
_Static_assert(sizeof(struct lat_msg) == 256, "one size for every message");

#endif
