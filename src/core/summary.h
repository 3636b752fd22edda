/* What a run did, by destination: for the summary at exit and the lines that would allow what was denied. Bounded. */
#ifndef LAT_CORE_SUMMARY_H
#define LAT_CORE_SUMMARY_H
#include "core/record.h"
#include <stdio.h>

struct lat_summary;

int lat_summary_new(size_t max_destinations, struct lat_summary **out);
void lat_summary_free(struct lat_summary *summary);
/* Counts a VERDICT, DNS or UNIX record. True when this destination was refused for the first time. */
bool lat_summary_add(struct lat_summary *summary, const struct lat_record *record);
/* Keeps what a LIMIT record says, the last of each limit. */
void lat_summary_limit(struct lat_summary *summary, const struct lat_record *record);
/* The destination for people: "tcp 203.0.113.9:443 (host.example)", "icmp 203.0.113.9", "dns host.example". */
void lat_summary_describe(const struct lat_record *record, char *buf, size_t size);
/* The rule that would let the record's flow pass: allow "tcp to host.example port 443". */
void lat_summary_suggest(const struct lat_record *record, char *buf, size_t size);
/* For people: counts, the destinations most used, one allow line for each one denied. Nothing happened: one line. */
void lat_summary_print(const struct lat_summary *summary, FILE *out, uint64_t lost);
/* One JSON object, schema lattice/run/v1, one line. */
void lat_summary_json(const struct lat_summary *summary, FILE *out, int status, uint64_t lost);

#endif
