/* A record as one line for people; see audit.h. Bytes that could act on a terminal are written as \xNN. */
#include "core/audit.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdarg.h>
#include <string.h>

struct line {
	char *buf;
	size_t size, len;
};

__attribute__((format(printf, 2, 3))) static void add(struct line *l, const char *format, ...)
{
	va_list args;
	int n;

	if (l->len >= l->size)
		return;
	va_start(args, format);
	n = vsnprintf(l->buf + l->len, l->size - l->len, format, args);
	va_end(args);
	l->len += n > 0 ? (size_t)n : 0;
}

/* Text that others chose. */
static void add_foreign(struct line *l, const char *text)
{
	for (const unsigned char *s = (const unsigned char *)text; *s; s++)
		add(l, *s < 0x20 || *s == 0x7f || *s >= 0x80 ? "\\x%02x" : "%c", *s);
}

static void add_upper(struct line *l, const char *text)
{
	for (; *text; text++)
		add(l, "%c", toupper((unsigned char)*text));
}

static void add_who(struct line *l, const struct lat_identity *who)
{
	const char *slash = strrchr(who->exe, '/');

	if (!who->pid)
		return;
	add(l, " ");
	add_foreign(l, who->exe[0] ? (slash ? slash + 1 : who->exe) : "?");
	add(l, "[%d]", who->pid);
}

static void add_end(struct line *l, const struct lat_record *r)
{
	if (r->where[0]) {
		add(l, " ");
		add_foreign(l, r->where);
	}
	if (r->text[0] && r->kind != LAT_RECORD_UNIX) {
		add(l, ": ");
		add_foreign(l, r->text);
	}
}

static void add_flow(struct line *l, const struct lat_record *r)
{
	char number[4], text[LAT_ENDPOINT_TEXT];
	const struct lat_flow *f = &r->flow;

	add(l, "%s%s ", f->dir == LAT_DIR_IN ? "in " : "", lat_proto_name(f->proto, number));
	if (f->proto == IPPROTO_TCP || f->proto == IPPROTO_UDP)
		add(l, "%s", lat_endpoint_format(&f->remote, f->dport, text, sizeof(text)));
	else
		add(l, "%s", lat_addr_format(&f->remote, text, sizeof(text)));
	if (r->name[0]) {
		add(l, " (");
		add_foreign(l, r->name);
		add(l, ")");
	}
}

static void add_rcode(struct line *l, uint16_t rcode)
{
	static const char *const names[] = { "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED" };

	if (rcode < sizeof(names) / sizeof(names[0]))
		add(l, " %s", names[rcode]);
	else
		add(l, " rcode %u", rcode);
}

static void add_judged(struct line *l, const struct lat_record *r)
{
	add_upper(l, r->audit_only ? "audit" : lat_action_name(r->action));
	add(l, " ");
	if (r->kind == LAT_RECORD_VERDICT) {
		add_flow(l, r);
	} else if (r->kind == LAT_RECORD_UNIX) {
		add(l, "unix ");
		add_foreign(l, r->text);
	} else {
		add(l, "dns ");
		add_foreign(l, r->name);
		if (r->qtype == 1 || r->qtype == 28)
			add(l, " %s", r->qtype == 1 ? "A" : "AAAA");
		else
			add(l, " type %u", r->qtype);
		add_rcode(l, r->rcode);
	}
	add_who(l, &r->who);
	add_end(l, r);
}

int lat_record_line(const struct lat_record *r, char *buf, size_t size)
{
	static const char *const words[] = { "", "CLOSE", "", "", "START", "EXIT", "RELOAD", "LOSS", "SELFCHECK", "HANDLER",
		"AGENT", "OPERATOR", "LIMIT" };
	_Static_assert(sizeof(words) / sizeof(words[0]) == LAT_RECORD_COUNT, "a word for each kind");
	struct line l = { buf, size, 0 };

	if (r->kind >= LAT_RECORD_COUNT)
		return -EINVAL;
	add(&l, "%s", words[r->kind]);
	switch (r->kind) {
	case LAT_RECORD_VERDICT:
	case LAT_RECORD_DNS:
	case LAT_RECORD_UNIX:
		add_judged(&l, r);
		break;
	case LAT_RECORD_CLOSE:
		add(&l, " ");
		add_flow(&l, r);
		add(&l, " out %llu in %llu bytes, %.3f s", (unsigned long long)r->bytes_out, (unsigned long long)r->bytes_in,
			(double)r->duration_ns / 1e9);
		add_who(&l, &r->who);
		add_end(&l, r);
		break;
	case LAT_RECORD_EXIT:
		add(&l, " status %d", r->status);
		add_end(&l, r);
		break;
	case LAT_RECORD_LOSS:
		add(&l, " %llu records could not be written", (unsigned long long)r->lost);
		add_end(&l, r);
		break;
	case LAT_RECORD_LIMIT:
		add(&l, " %s", r->name);
		add_end(&l, r);
		break;
	case LAT_RECORD_OPERATOR:
		add(&l, " uid %u", r->who.uid);
		add_end(&l, r);
		break;
	default:
		if (r->generation)
			add(&l, " generation %u", r->generation);
		add_who(&l, &r->who);
		add_end(&l, r);
	}
	return l.len < size ? (int)l.len : -ENOSPC;
}
