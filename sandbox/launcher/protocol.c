/* One message a packet, descriptors beside it; and the texts of failures. */
#include "base/mem.h"
#include "launcher/setup.h"
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int lat_msg_send(int socket, const struct lat_msg *msg, const int *fds, size_t nfds)
{
	union {
		char buf[CMSG_SPACE(sizeof(int) * LAT_MSG_MAX_FDS)];
		struct cmsghdr align;
	} control;
	struct iovec iov = { (void *)msg, sizeof(*msg) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t sent;

	if (nfds > LAT_MSG_MAX_FDS)
		return -EINVAL;
	if (nfds) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		m.msg_control = control.buf;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * nfds);
	}
	do {
		sent = sendmsg(socket, &m, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : 0;
}

int lat_msg_receive(int socket, struct lat_msg *msg, int *fds, size_t *nfds)
{
	union {
		char buf[CMSG_SPACE(sizeof(int) * LAT_MSG_MAX_FDS)];
		struct cmsghdr align;
	} control;
	size_t room = nfds ? *nfds : 0, count = 0;
	struct lat_msg in;

	for (;;) {
		struct iovec iov = { &in, sizeof(in) };
		struct msghdr m = { .msg_iov = &iov,
			.msg_iovlen = 1,
			.msg_control = control.buf,
			.msg_controllen = sizeof(control.buf) };
		ssize_t got = recvmsg(socket, &m, MSG_CMSG_CLOEXEC);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return errno == ECONNRESET ? -EPIPE : -errno;
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
			size_t n = c->cmsg_type == SCM_RIGHTS
					   ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int)
					   : 0;

			for (size_t i = 0; i < n; i++) {
				int fd;

				memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
				if (count < room && got == sizeof(in))
					fds[count++] = fd;
				else
					close(fd);
			}
		}
		if (got == 0)
			return -EPIPE;
		if (got == sizeof(in))
			break;
	}
	in.text[sizeof(in.text) - 1] = '\0';
	*msg = in;
	if (nfds)
		*nfds = count;
	return 0;
}

int lat_setup_fail(struct lat_setup *s, int error, const char *format, ...)
{
	const char *why = strerrordesc_np(-error);
	size_t used, size = sizeof(s->failure.text);
	va_list args;

	s->failure = (struct lat_msg){ .type = LAT_MSG_FAILED, .value = -error, .extra = 125 };
	va_start(args, format);
	vsnprintf(s->failure.text, size, format, args);
	va_end(args);
	used = strlen(s->failure.text);
	snprintf(s->failure.text + used, size - used, ": %s", why ? why : "unknown error");
	return error;
}

void lat_setup_warn(struct lat_setup *s, const char *format, ...)
{
	size_t used = strlen(s->warning), size = sizeof(s->warning);
	va_list args;

	if (used && used + 2 < size) {
		strcpy(s->warning + used, "; ");
		used += 2;
	}
	va_start(args, format);
	vsnprintf(s->warning + used, size - used, format, args);
	va_end(args);
}

int lat_write_file(const char *path, const char *text)
{
	lat_autoclose int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return -errno;
	return 0;
}
