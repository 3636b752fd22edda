/* Texts in buffers of fixed size. */
#ifndef LAT_BASE_TEXT_H
#define LAT_BASE_TEXT_H
#include <string.h>

/* As much of `from` (at most `most` bytes of it) as fits, and a NUL. What snprintf("%s") does, at a tenth of the time. */
static inline void lat_copy_text(char *to, size_t size, const char *from, size_t most)
{
	size_t len = strnlen(from, most < size - 1 ? most : size - 1);

	memcpy(to, from, len);
	to[len] = '\0';
}

/* The same for two arrays, or an array and a string. */
#define lat_set_text(array, from) lat_copy_text(array, sizeof(array), from, sizeof(array))

#endif
