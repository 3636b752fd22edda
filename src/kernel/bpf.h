/* BPF objects, their programs, and programs on network devices. Pro edition; in the community edition everything gives
 * -LAT_EPRO. Programs, links and maps are descriptors of the caller. */
#ifndef LAT_KERNEL_BPF_H
#define LAT_KERNEL_BPF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LAT_BPF_SAY 512

struct lat_bpf;

/* An object: a file, or one that is in the binary ("tc"). say: what libbpf or the verifier said, the end of it. 0, -ENOENT,
 * or negative errno. */
int lat_bpf_open_file(const char *path, struct lat_bpf **out, char say[LAT_BPF_SAY]);
int lat_bpf_open_embedded(const char *name, struct lat_bpf **out, char say[LAT_BPF_SAY]);
void lat_bpf_free(struct lat_bpf *bpf); /* NULL is fine; programs and maps that somebody has a descriptor of stay */
/* Before the load. -ENOENT: no such map. */
int lat_bpf_size(struct lat_bpf *bpf, const char *map, uint32_t entries);
int lat_bpf_load(struct lat_bpf *bpf, char say[LAT_BPF_SAY]);
/* After the load: a descriptor for the caller, or -ENOENT. */
int lat_bpf_program(const struct lat_bpf *bpf, const char *name);
int lat_bpf_map(const struct lat_bpf *bpf, const char *name);
/* The i-th name (0..), or NULL. */
const char *lat_bpf_program_name(const struct lat_bpf *bpf, size_t i);
const char *lat_bpf_map_name(const struct lat_bpf *bpf, size_t i);
/* Names in the binary, the list ends with NULL; empty in the community edition. */
const char *lat_bpf_embedded_name(size_t i);

struct lat_bpf_info {
	uint32_t id, type;
	char name[16];
};
int lat_bpf_info(int program, struct lat_bpf_info *out);

struct lat_bpf_run {
	uint32_t verdict; /* what the program returned */
	uint32_t ns;      /* of one run, the mean */
	size_t out_size;
};
/* Runs a packet through a tc program `repeat` times. out: out_size bytes in, how many there are comes back (more than fit:
 * -ENOSPC). */
int lat_bpf_test(int program, const void *packet, size_t size, uint32_t repeat, void *out, size_t out_size,
	struct lat_bpf_run *result);

enum lat_bpf_hook { LAT_BPF_AUTO, LAT_BPF_TCX, LAT_BPF_CLSACT };
struct lat_bpf_attachment {
	uint32_t ifindex;
	bool in;
	uint8_t how;      /* TCX or CLSACT */
	bool made_qdisc;
	int link;         /* TCX; else -1 */
	uint32_t handle, priority; /* CLSACT */
};
/* Puts the program on ingress or egress of the device, behind what is there; AUTO: by TCX, and by clsact where the kernel has
 * no TCX. */
int lat_bpf_attach(int program, uint32_t ifindex, bool in, enum lat_bpf_hook how, struct lat_bpf_attachment *out);
/* Takes it off; a clsact qdisc that was made for it goes if nothing else is on it. */
void lat_bpf_detach(struct lat_bpf_attachment *attachment);
/* What is on the device by TCX, and whether it has a clsact qdisc. How many were written, or negative errno (-EINVAL: no TCX
 * here). */
int lat_bpf_attached(uint32_t ifindex, bool in, struct lat_bpf_info *out, size_t count);

/* Programs and links by a path on a bpffs. */
int lat_bpf_pin(int fd, const char *path);
int lat_bpf_pinned(const char *path); /* a program's descriptor; -EINVAL for something else */

#endif
