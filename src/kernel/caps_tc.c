/* Probes of what the ebpf enforcer needs, by system calls alone, so that both editions can tell: a program on each kind of
 * hook that counts a packet sent through it, and the maps. See caps.h. */
#include "kernel/caps_impl.h"
#include "base/mem.h"
#include "kernel/caps.h"
#include <libmnl/libmnl.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define TCX_INGRESS 46 /* enum bpf_attach_type of 6.6 */
#define LO 1           /* its number in every network namespace */

static int sys_bpf(int command, union bpf_attr *attr)
{
	long r = syscall(SYS_bpf, command, attr, sizeof(*attr));

	return r < 0 ? -errno : (int)r;
}

static int make_map(uint32_t type, uint32_t key, uint32_t value, uint32_t entries, uint32_t flags, int inner)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_type = type;
	attr.key_size = key;
	attr.value_size = value;
	attr.max_entries = entries;
	attr.map_flags = flags;
	attr.inner_map_fd = (uint32_t)inner;
	return sys_bpf(BPF_MAP_CREATE, &attr);
}

static int map_call(int command, int map, const void *key, void *value)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_fd = (uint32_t)map;
	attr.key = (uintptr_t)key;
	attr.value = (uintptr_t)value;
	return sys_bpf(command, &attr);
}

static int load(const struct bpf_insn *code, size_t count)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_SCHED_CLS;
	attr.insns = (uintptr_t)code;
	attr.insn_cnt = (uint32_t)count;
	attr.license = (uintptr_t)"GPL";
	return sys_bpf(BPF_PROG_LOAD, &attr);
}

#define INSN(c, d, s, o, i) { .code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i) }
#define MOV_IMM(d, i) INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define MOV(d, s) INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define MAP(d, fd) INSN(BPF_LD | BPF_DW | BPF_IMM, d, BPF_PSEUDO_MAP_FD, 0, fd), INSN(0, 0, 0, 0, 0)
#define CALL(id) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, id)
#define EXIT INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)

/* A program that adds one to the first entry of an array and lets the next program decide. */
static int load_counter(int map)
{
	const struct bpf_insn code[] = {
		INSN(BPF_ST | BPF_W | BPF_MEM, BPF_REG_10, 0, -4, 0),
		MOV(BPF_REG_2, BPF_REG_10),
		INSN(BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_2, 0, 0, -4),
		MAP(BPF_REG_1, map),
		CALL(BPF_FUNC_map_lookup_elem),
		INSN(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, 2, 0),
		MOV_IMM(BPF_REG_1, 1),
		INSN(BPF_STX | BPF_ATOMIC | BPF_DW, BPF_REG_0, BPF_REG_1, 0, BPF_ADD),
		MOV_IMM(BPF_REG_0, -1),
		EXIT,
	};

	return load(code, LAT_ARRAY_SIZE(code));
}

/* A network namespace with `lo` up. BPF needs privileges of the host's own user namespace, so none is made. */
static int enter(void)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	lat_autoclose int fd = -1;

	if (unshare(CLONE_NEWNET) < 0)
		return -errno;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr) < 0 ? -errno : 0;
}

/* One packet over `lo`; did the program see it? */
static int see_packet(int map)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9), .sin_addr = { htonl(INADDR_LOOPBACK) } };
	lat_autoclose int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	uint32_t zero = 0;
	uint64_t seen = 0;
	int r;

	if (fd < 0 || sendto(fd, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)) < 0)
		return -errno;
	r = map_call(BPF_MAP_LOOKUP_ELEM, map, &zero, &seen);
	return r < 0 ? r : seen ? 0 : -EIO;
}

static int prepare(int *map, int *program)
{
	int r = enter();

	if (r < 0)
		return r;
	*map = make_map(BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0, 0);
	if (*map < 0)
		return *map;
	*program = load_counter(*map);
	return *program < 0 ? *program : 0;
}

int lat_cap_tcx(char *detail, size_t size)
{
	lat_autoclose int map = -1, program = -1, link = -1;
	union bpf_attr attr;
	int r = prepare(&map, &program);

	if (r < 0)
		return r;
	memset(&attr, 0, sizeof(attr));
	attr.link_create.prog_fd = (uint32_t)program;
	attr.link_create.target_ifindex = LO;
	attr.link_create.attach_type = TCX_INGRESS;
	link = sys_bpf(BPF_LINK_CREATE, &attr);
	return link < 0 ? link : see_packet(map);
}

static int ask(int fd, struct nlmsghdr *head)
{
	uint8_t buf[4096];
	const struct nlmsghdr *answer = (const void *)buf;
	ssize_t n;

	head->nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
	if (send(fd, head, head->nlmsg_len, 0) < 0)
		return -errno;
	n = recv(fd, buf, sizeof(buf), 0);
	if (n < (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)) || answer->nlmsg_type != NLMSG_ERROR)
		return n < 0 ? -errno : -EPROTO;
	return ((const struct nlmsgerr *)NLMSG_DATA(answer))->error;
}

static struct tcmsg *begin(void *buf, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *head = mnl_nlmsg_put_header(buf);
	struct tcmsg *tc = mnl_nlmsg_put_extra_header(head, sizeof(*tc));

	head->nlmsg_type = type;
	head->nlmsg_flags = flags;
	tc->tcm_family = AF_UNSPEC;
	tc->tcm_ifindex = LO;
	return tc;
}

int lat_cap_clsact(char *detail, size_t size)
{
	lat_autoclose int map = -1, program = -1, fd = -1;
	uint8_t buf[1024];
	struct nlmsghdr *head = (void *)buf;
	struct nlattr *options;
	struct tcmsg *tc;
	int r = prepare(&map, &program);

	if (r < 0)
		return r;
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0)
		return -errno;
	tc = begin(buf, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL);
	tc->tcm_parent = TC_H_CLSACT;
	tc->tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0);
	mnl_attr_put_strz(head, TCA_KIND, "clsact");
	r = ask(fd, head);
	if (r < 0)
		return r;
	tc = begin(buf, RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL);
	tc->tcm_parent = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS);
	tc->tcm_info = TC_H_MAKE(1u << 16, htons(ETH_P_ALL));
	mnl_attr_put_strz(head, TCA_KIND, "bpf");
	options = mnl_attr_nest_start(head, TCA_OPTIONS);
	mnl_attr_put_u32(head, TCA_BPF_FD, (uint32_t)program);
	mnl_attr_put_strz(head, TCA_BPF_NAME, "probe");
	mnl_attr_put_u32(head, TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT);
	mnl_attr_nest_end(head, options);
	r = ask(fd, head);
	return r < 0 ? r : see_packet(map);
}

/* Eight bytes from a program, seen in the ring's pages. */
int lat_cap_bpf_ring(char *detail, size_t size)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	lat_autoclose int map = make_map(BPF_MAP_TYPE_RINGBUF, 0, 0, (uint32_t)page, 0, 0), program = -1;
	const struct bpf_insn code[] = {
		INSN(BPF_ST | BPF_DW | BPF_MEM, BPF_REG_10, 0, -8, 42),
		MOV(BPF_REG_2, BPF_REG_10),
		INSN(BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_2, 0, 0, -8),
		MAP(BPF_REG_1, map),
		MOV_IMM(BPF_REG_3, 8),
		MOV_IMM(BPF_REG_4, 0),
		CALL(BPF_FUNC_ringbuf_output),
		EXIT,
	};
	uint8_t packet[64] = { 0 };
	union bpf_attr attr;
	const uint64_t *position;
	int r;

	if (map < 0)
		return map;
	program = load(code, LAT_ARRAY_SIZE(code));
	if (program < 0)
		return program;
	memset(&attr, 0, sizeof(attr));
	attr.test.prog_fd = (uint32_t)program;
	attr.test.data_in = (uintptr_t)packet;
	attr.test.data_size_in = sizeof(packet);
	attr.test.repeat = 1;
	r = sys_bpf(BPF_PROG_TEST_RUN, &attr);
	if (r < 0)
		return r;
	position = mmap(NULL, page, PROT_READ, MAP_SHARED, map, (off_t)page);
	if (position == MAP_FAILED)
		return -errno;
	return *position ? 0 : -EIO;
}

int lat_cap_bpf_lpm(char *detail, size_t size)
{
	struct {
		uint32_t len;
		uint8_t addr[4];
	} wide = { 8, { 10 } }, narrow = { 24, { 10, 1, 2 } }, asked = { 32, { 10, 1, 2, 3 } };
	lat_autoclose int map = make_map(BPF_MAP_TYPE_LPM_TRIE, sizeof(wide), 4, 4, BPF_F_NO_PREALLOC, 0);
	uint32_t one = 1, two = 2, got = 0;
	int r;

	if (map < 0)
		return map;
	r = map_call(BPF_MAP_UPDATE_ELEM, map, &wide, &one);
	if (r == 0)
		r = map_call(BPF_MAP_UPDATE_ELEM, map, &narrow, &two);
	if (r == 0)
		r = map_call(BPF_MAP_LOOKUP_ELEM, map, &asked, &got);
	return r < 0 ? r : got == 2 ? 0 : -EIO;
}

/* The slot of a map of maps from one to the other, and to nothing. */
int lat_cap_bpf_swap(char *detail, size_t size)
{
	lat_autoclose int a = make_map(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0, 0), b = make_map(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0, 0);
	lat_autoclose int outer = -1;
	uint32_t zero = 0, first = 0, second = 0;
	int r;

	if (a < 0 || b < 0)
		return a < 0 ? a : b;
	outer = make_map(BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, 0, a);
	if (outer < 0)
		return outer;
	r = map_call(BPF_MAP_UPDATE_ELEM, outer, &zero, &a);
	if (r == 0)
		r = map_call(BPF_MAP_LOOKUP_ELEM, outer, &zero, &first);
	if (r == 0)
		r = map_call(BPF_MAP_UPDATE_ELEM, outer, &zero, &b);
	if (r == 0)
		r = map_call(BPF_MAP_LOOKUP_ELEM, outer, &zero, &second);
	if (r == 0)
		r = map_call(BPF_MAP_DELETE_ELEM, outer, &zero, NULL);
	return r < 0 ? r : first && second && first != second ? 0 : -EIO;
}
