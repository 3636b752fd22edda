/* See bpf.h: objects, programs, pins. Hooks are bpf_hook.c. */
#include "kernel/bpf.h"
#include "base/mem.h"
#include "kernel/pro/fdinfo.h"
#include "kernel/pro/objects.h"
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct lat_bpf {
	struct bpf_object *object;
};

/* Where this thread's words of libbpf go: the last ones tell the reason. */
static __thread char *listening;

static int listen(enum libbpf_print_level level, const char *format, va_list args)
{
	char line[LAT_BPF_SAY];
	size_t used, len;

	if (!listening || level > LIBBPF_WARN)
		return 0;
	vsnprintf(line, sizeof(line), format, args);
	len = strlen(line);
	used = strlen(listening);
	if (used + len >= LAT_BPF_SAY) {
		size_t drop = used + len - LAT_BPF_SAY + 1;

		drop = drop < used ? drop : used;
		memmove(listening, listening + drop, used - drop + 1);
		used -= drop;
	}
	memcpy(listening + used, line, len + 1);
	return 0;
}

static void begin(char say[LAT_BPF_SAY])
{
	say[0] = '\0';
	listening = say;
	libbpf_set_print(listen);
}

static int opened(struct bpf_object *object, struct lat_bpf **out)
{
	int r = object ? 0 : -errno;
	struct lat_bpf *bpf;

	listening = NULL;
	if (r < 0)
		return r;
	bpf = calloc(1, sizeof(*bpf));
	if (!bpf) {
		bpf_object__close(object);
		return -ENOMEM;
	}
	bpf->object = object;
	*out = bpf;
	return 0;
}

int lat_bpf_open_file(const char *path, struct lat_bpf **out, char say[LAT_BPF_SAY])
{
	if (access(path, R_OK) < 0) {
		say[0] = '\0';
		return -errno;
	}
	begin(say);
	return opened(bpf_object__open_file(path, NULL), out);
}

int lat_bpf_open_embedded(const char *name, struct lat_bpf **out, char say[LAT_BPF_SAY])
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = name);
	const struct lat_bpf_object *o = lat_bpf_objects;

	say[0] = '\0';
	while (o->name && strcmp(o->name, name) != 0)
		o++;
	if (!o->name)
		return -ENOENT;
	begin(say);
	return opened(bpf_object__open_mem(o->data, (size_t)(o->end - o->data), &opts), out);
}

void lat_bpf_free(struct lat_bpf *bpf)
{
	if (!bpf)
		return;
	bpf_object__close(bpf->object);
	free(bpf);
}

int lat_bpf_size(struct lat_bpf *bpf, const char *map, uint32_t entries)
{
	struct bpf_map *m = bpf_object__find_map_by_name(bpf->object, map);

	return m ? bpf_map__set_max_entries(m, entries) : -ENOENT;
}

int lat_bpf_load(struct lat_bpf *bpf, char say[LAT_BPF_SAY])
{
	int r;

	begin(say);
	r = bpf_object__load(bpf->object);
	listening = NULL;
	return r < 0 ? r : 0;
}

static int copy_fd(int fd)
{
	int copy = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);

	return fd < 0 ? -ENOENT : copy < 0 ? -errno : copy;
}

int lat_bpf_program(const struct lat_bpf *bpf, const char *name)
{
	struct bpf_program *p = bpf_object__find_program_by_name(bpf->object, name);

	return p ? copy_fd(bpf_program__fd(p)) : -ENOENT;
}

int lat_bpf_map(const struct lat_bpf *bpf, const char *name)
{
	struct bpf_map *m = bpf_object__find_map_by_name(bpf->object, name);

	return m ? copy_fd(bpf_map__fd(m)) : -ENOENT;
}

const char *lat_bpf_program_name(const struct lat_bpf *bpf, size_t i)
{
	struct bpf_program *p = NULL;

	do
		p = bpf_object__next_program(bpf->object, p);
	while (p && i--);
	return p ? bpf_program__name(p) : NULL;
}

const char *lat_bpf_map_name(const struct lat_bpf *bpf, size_t i)
{
	struct bpf_map *m = NULL;

	do
		m = bpf_object__next_map(bpf->object, m);
	while (m && i--);
	return m ? bpf_map__name(m) : NULL;
}

const char *lat_bpf_embedded_name(size_t i)
{
	return lat_bpf_objects[i].name;
}

int lat_bpf_info(int program, struct lat_bpf_info *out)
{
	struct bpf_prog_info info = { 0 };
	uint32_t size = sizeof(info);

	if (bpf_obj_get_info_by_fd(program, &info, &size) < 0)
		return -errno;
	out->id = info.id;
	out->type = info.type;
	snprintf(out->name, sizeof(out->name), "%s", info.name);
	return 0;
}

int lat_bpf_test(int program, const void *packet, size_t size, uint32_t repeat, void *out, size_t out_size,
	struct lat_bpf_run *result)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = (uint32_t)size, .data_out = out,
		.data_size_out = (uint32_t)out_size, .repeat = (int)repeat);

	if (bpf_prog_test_run_opts(program, &opts) < 0)
		return -errno;
	*result = (struct lat_bpf_run){ .verdict = opts.retval, .ns = opts.duration, .out_size = opts.data_size_out };
	return 0;
}

int lat_bpf_pin(int fd, const char *path)
{
	return bpf_obj_pin(fd, path) < 0 ? -errno : 0;
}

int lat_bpf_pinned(const char *path)
{
	int fd = bpf_obj_get(path);

	if (fd >= 0 && !lat_bpf_fd_is(fd, "prog_type:")) {
		close(fd);
		return -EINVAL;
	}
	return fd < 0 ? -errno : fd;
}
