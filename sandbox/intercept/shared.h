/* What the supervisor of preload mode and liblattice_intercept.so share: an image of the decision tables, a control page, and
 * messages over unix sockets.
 *
 *   DIR (0700, its path in the environment: LATTICE_INTERCEPT)
 *     tell   SOCK_DGRAM      shim -> supervisor: what was decided in the process, for the audit; where the ring is full or asleep
 *     ask    SOCK_SEQPACKET  one request, one reply: the descriptors of control page, image and ring, or a question
 *     dns    SOCK_STREAM     DNS messages, each behind its length as over TCP
 *
 * The image is one sealed memfd a generation: offsets instead of pointers, made from the very tables that every other mode
 * asks (core/preload_image.c), never changed once it can be seen. The control page is the supervisor's to write; readers map it
 * read-only. The ring is the programs' to write: what was decided, without a system call. Both sides check what they read: nothing that is in them makes the program crash, and what is odd is denied. */
#ifndef LAT_SANDBOX_INTERCEPT_SHARED_H
#define LAT_SANDBOX_INTERCEPT_SHARED_H
#include "base/addr.h"
#include <stdint.h>
#include <sys/types.h>

#define LAT_SHIM_LIBRARY "liblattice_intercept.so"
#define LAT_SHIM_VARIABLE "LATTICE_INTERCEPT"
#define LAT_SHIM_PATH_MAX 96 /* of DIR, so that DIR/tell fits a sockaddr_un */

/* ---- the image ---- */

#define LAT_SHIM_MAGIC 0x74636570746e696cull
#define LAT_SHIM_ABI 1u
#define LAT_SHIM_TREES 4 /* direction * 2 + (1 for IPv6) */
#define LAT_SHIM_MOST_PARENTS 132
#define LAT_SHIM_NO_RULE UINT32_MAX

/* An address as a number, its family's first bit on top. */
typedef unsigned __int128 lat_shim_key;

enum { LAT_SHIM_TCP, LAT_SHIM_UDP, LAT_SHIM_OTHER, LAT_SHIM_LISTS };

/* As struct lat_node. A list lies at words[list]: its count, the rules, then the first keys as uint16_t. */
struct lat_shim_node {
	uint32_t lists[LAT_SHIM_LISTS];
	uint32_t parent; /* 0: none */
	uint32_t above;  /* lowest rule of all parents */
	uint32_t unused;
};

struct lat_shim_rule {
	uint8_t action; /* enum lat_action */
	uint8_t ask;    /* the supervisor is asked (a question, a rate) */
	uint16_t err;   /* errno of a refusal, 0: the usual one */
};

/* Offsets are in bytes from the image's start. */
struct lat_shim_image {
	uint64_t magic;
	uint32_t abi, size;
	uint32_t generation;
	uint32_t rule_count;
	uint32_t rules; /* struct lat_shim_rule [rule_count + 1]; the default first */
	uint32_t nodes, node_count;
	uint32_t words, word_count;
	uint32_t least_name; /* lowest rule about a name; what no lower rule decides is asked; LAT_SHIM_NO_RULE: none */
	uint32_t ask_all;    /* the supervisor decides everything (--learn, --audit-only) */
	uint32_t unused;
	struct { uint32_t starts, owners, count, unused; } trees[LAT_SHIM_TREES]; /* lat_shim_key[], uint32_t[] */
};

/* ---- the control page ---- */

struct lat_shim_control {
	/* The supervisor holds a robust mutex here while it lives: the kernel marks the word when it dies, however it does. */
	union {
		uint32_t owner; /* its thread's number; 0 or LAT_SHIM_OWNER_DIED: nobody is there any more */
		uint8_t mutex[64];
	};
	uint64_t magic;
	uint32_t abi;
	uint32_t generation; /* in force; another one than the mapped image's: ask for the new one */
	uint8_t own[2][8192]; /* loopback ports that the run itself has bound: tcp, udp; bit port % 8 of byte port / 8 */
};
#define LAT_SHIM_OWNER_DIED 0x40000000u

/* ---- messages ---- */

struct lat_shim_flow {
	struct lat_addr remote; /* of a bind: the local address */
	uint16_t port;          /* host order */
	uint8_t proto;
	uint8_t dir;            /* enum lat_dir */
};

enum lat_shim_request_type {
	LAT_SHIM_DECIDED = 1, /* tell, or in the ring: flow, rule, generation, action, err */
	LAT_SHIM_WAKE,        /* tell: something is in the ring */
	LAT_SHIM_MAP,         /* ask: the reply carries control page, image and ring */
	LAT_SHIM_JUDGE,       /* ask: flow; the supervisor writes the record */
	LAT_SHIM_BOUND        /* ask: flow.port and proto are the program's own on loopback now */
};

struct lat_shim_message {
	uint64_t magic;
	uint32_t abi, type;
	uint32_t generation, rule;
	struct lat_shim_flow flow;
	uint8_t action;
	uint8_t bind; /* the flow is a bind or listen: remote is the local address */
	uint16_t err;
};

/* ---- the ring ---- */

#define LAT_SHIM_SLOTS 2048u

/* Who fills slot n (n % LAT_SHIM_SLOTS) got n from head, and sets turn to n + 1 when it is whole. */
struct lat_shim_slot {
	uint64_t turn;
	int32_t pid;
	int32_t home; /* the process that fetched the tables: this one, or one that it is a copy of */
	struct lat_shim_message message;
};

struct lat_shim_ring {
	uint64_t head; /* the next slot to fill */
	uint64_t tail; /* the next to be read; the supervisor's word */
	uint32_t asleep; /* the supervisor does not look: whoever sets it to 0 says so by `tell` */
	uint32_t unused[11];
	struct lat_shim_slot slots[LAT_SHIM_SLOTS];
};

enum lat_shim_what {
	LAT_SHIM_DENY, /* 0 on purpose */
	LAT_SHIM_ALLOW,
	LAT_SHIM_DROP,
	LAT_SHIM_ASK   /* never in a reply */
};

struct lat_shim_reply {
	uint64_t magic;
	uint32_t abi, type;
	uint8_t what; /* enum lat_shim_what */
	uint8_t unused;
	uint16_t err;
	uint32_t size; /* MAP: of the image */
};

#endif
