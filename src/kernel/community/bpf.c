/* BPF in the community edition: there is none; see bpf.h. */
#include "kernel/bpf.h"
#include "base/edition.h"

int lat_bpf_open_file(const char *path, struct lat_bpf **out, char say[LAT_BPF_SAY])
{
	say[0] = '\0';
	return -LAT_EPRO;
}

int lat_bpf_open_embedded(const char *name, struct lat_bpf **out, char say[LAT_BPF_SAY])
{
	say[0] = '\0';
	return -LAT_EPRO;
}

void lat_bpf_free(struct lat_bpf *bpf)
{
}

int lat_bpf_size(struct lat_bpf *bpf, const char *map, uint32_t entries)
{
	return -LAT_EPRO;
}

int lat_bpf_load(struct lat_bpf *bpf, char say[LAT_BPF_SAY])
{
	say[0] = '\0';
	return -LAT_EPRO;
}

int lat_bpf_program(const struct lat_bpf *bpf, const char *name)
{
	return -LAT_EPRO;
}

int lat_bpf_map(const struct lat_bpf *bpf, const char *name)
{
	return -LAT_EPRO;
}

const char *lat_bpf_program_name(const struct lat_bpf *bpf, size_t i)
{
	return NULL;
}

const char *lat_bpf_map_name(const struct lat_bpf *bpf, size_t i)
{
	return NULL;
}

const char *lat_bpf_embedded_name(size_t i)
{
	return NULL;
}

int lat_bpf_info(int program, struct lat_bpf_info *out)
{
	return -LAT_EPRO;
}

int lat_bpf_test(int program, const void *packet, size_t size, uint32_t repeat, void *out, size_t out_size,
	struct lat_bpf_run *result)
{
	return -LAT_EPRO;
}

int lat_bpf_attach(int program, uint32_t ifindex, bool in, enum lat_bpf_hook how, struct lat_bpf_attachment *out)
{
	return -LAT_EPRO;
}

void lat_bpf_detach(struct lat_bpf_attachment *attachment)
{
}

int lat_bpf_attached(uint32_t ifindex, bool in, struct lat_bpf_info *out, size_t count)
{
	return -LAT_EPRO;
}

int lat_bpf_pin(int fd, const char *path)
{
	return -LAT_EPRO;
}

int lat_bpf_pinned(const char *path)
{
	return -LAT_EPRO;
}
