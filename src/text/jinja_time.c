/* strftime() for templates: always UTC and the C locale, whatever the process has set. */
#include "text/jinja_core.h"

#include <stdio.h>

typedef struct date {
    int64_t year;
    int month, day, hour, minute, second; /* month and day from 1 */
    int weekday, yearday;                 /* Sunday is 0; 1 January is 0 */
} date;

static const char *const weekdays[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
static const char *const months[] = {"January", "February", "March",     "April",   "May",      "June",
                                     "July",    "August",   "September", "October", "November", "December"};

static bool leap(int64_t year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static date date_of(int64_t now)
{
    static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    date d = {.year = 1970};
    int64_t days = now / 86400, rest = now % 86400;
    if (rest < 0) {
        rest += 86400;
        days--;
    }
    d.hour = (int)(rest / 3600);
    d.minute = (int)(rest / 60 % 60);
    d.second = (int)(rest % 60);
    d.weekday = (int)(((days + 4) % 7 + 7) % 7);
    /* 400 years have 146097 days; the remainder is counted year by year. */
    const int64_t eras = days / 146097 - (days % 146097 < 0);
    d.year += 400 * eras;
    days -= 146097 * eras;
    for (; days >= 365 + leap(d.year); d.year++)
        days -= 365 + leap(d.year);
    d.yearday = (int)days;
    for (d.month = 1;; d.month++) {
        const int length = lengths[d.month - 1] + (d.month == 2 && leap(d.year));
        if (days < length)
            break;
        days -= length;
    }
    d.day = (int)days + 1;
    return d;
}

/* Week and year of ISO 8601: weeks begin on Monday and belong to the year that holds their Thursday. */
static int iso_week(const date *d, int64_t *year)
{
    const int monday = (d->weekday + 6) % 7; /* days since Monday */
    int week = (d->yearday - monday + 10) / 7;
    *year = d->year;
    if (week < 1) {
        const int before = d->yearday + 365 + leap(d->year - 1);
        *year = d->year - 1;
        return (before - monday + 10) / 7;
    }
    if (week == 53 && 365 + leap(d->year) - d->yearday < 4 - monday + 1) {
        *year = d->year + 1;
        week = 1;
    }
    return week;
}

static void put_number(jj_builder *b, int64_t v, int width, char fill, char flag)
{
    char text[32];
    if (flag == '-')
        width = 0;
    else if (flag == '_' || flag == '0')
        fill = flag == '_' ? ' ' : '0';
    if (fill == ' ')
        snprintf(text, sizeof text, "%*lld", width, (long long)v);
    else
        snprintf(text, sizeof text, "%0*lld", width, (long long)v);
    sala_jj_put_lit(b, text, false);
}

static void put_name(jj_builder *b, const char *name, size_t n, char flag)
{
    char text[16];
    snprintf(text, sizeof text, "%.*s", (int)n, name);
    for (char *c = text; flag == '^' && *c; c++)
        *c = *c >= 'a' && *c <= 'z' ? (char)(*c - 32) : *c;
    sala_jj_put_lit(b, text, false);
}

static void put_date(jj_builder *b, const date *d, const char *fmt);

static bool put_part(jj_builder *b, const date *d, char what, char flag)
{
    const int hour12 = d->hour % 12 ? d->hour % 12 : 12, monday = (d->weekday + 6) % 7;
    int64_t iso_year;
    const int week = iso_week(d, &iso_year);
    switch (what) {
    case 'a':
        put_name(b, weekdays[d->weekday], 3, flag);
        break;
    case 'A':
        put_name(b, weekdays[d->weekday], 15, flag);
        break;
    case 'b':
    case 'h':
        put_name(b, months[d->month - 1], 3, flag);
        break;
    case 'B':
        put_name(b, months[d->month - 1], 15, flag);
        break;
    case 'c':
        put_date(b, d, "%a %b %e %H:%M:%S %Y");
        break;
    case 'C':
        put_number(b, d->year / 100, 2, '0', flag);
        break;
    case 'd':
        put_number(b, d->day, 2, '0', flag);
        break;
    case 'D':
    case 'x':
        put_date(b, d, "%m/%d/%y");
        break;
    case 'e':
        put_number(b, d->day, 2, ' ', flag);
        break;
    case 'f':
        sala_jj_put_lit(b, "000000", false);
        break;
    case 'F':
        put_date(b, d, "%Y-%m-%d");
        break;
    case 'g':
        put_number(b, iso_year % 100, 2, '0', flag);
        break;
    case 'G':
        put_number(b, iso_year, 0, '0', flag);
        break;
    case 'H':
        put_number(b, d->hour, 2, '0', flag);
        break;
    case 'I':
        put_number(b, hour12, 2, '0', flag);
        break;
    case 'j':
        put_number(b, d->yearday + 1, 3, '0', flag);
        break;
    case 'k':
        put_number(b, d->hour, 2, ' ', flag);
        break;
    case 'l':
        put_number(b, hour12, 2, ' ', flag);
        break;
    case 'm':
        put_number(b, d->month, 2, '0', flag);
        break;
    case 'M':
        put_number(b, d->minute, 2, '0', flag);
        break;
    case 'n':
        sala_jj_put_lit(b, "\n", false);
        break;
    case 'p':
        sala_jj_put_lit(b, d->hour < 12 ? "AM" : "PM", false);
        break;
    case 'P':
        sala_jj_put_lit(b, d->hour < 12 ? "am" : "pm", false);
        break;
    case 'r':
        put_date(b, d, "%I:%M:%S %p");
        break;
    case 'R':
        put_date(b, d, "%H:%M");
        break;
    case 'S':
        put_number(b, d->second, 2, '0', flag);
        break;
    case 't':
        sala_jj_put_lit(b, "\t", false);
        break;
    case 'T':
    case 'X':
        put_date(b, d, "%H:%M:%S");
        break;
    case 'u':
        put_number(b, d->weekday ? d->weekday : 7, 1, '0', flag);
        break;
    case 'U':
        put_number(b, (d->yearday + 7 - d->weekday) / 7, 2, '0', flag);
        break;
    case 'V':
        put_number(b, week, 2, '0', flag);
        break;
    case 'w':
        put_number(b, d->weekday, 1, '0', flag);
        break;
    case 'W':
        put_number(b, (d->yearday + 7 - monday) / 7, 2, '0', flag);
        break;
    case 'y':
        put_number(b, d->year % 100, 2, '0', flag);
        break;
    case 'Y':
        put_number(b, d->year, 0, '0', flag);
        break;
    case 'z':
    case 'Z':
        break;
    case '%':
        sala_jj_put_lit(b, "%", false);
        break;
    default:
        return false;
    }
    return true;
}

static void put_date(jj_builder *b, const date *d, const char *fmt)
{
    for (; *fmt; fmt++) {
        if (*fmt == '%' && fmt[1])
            put_part(b, d, *++fmt, 0);
        else
            sala_jj_put(b, fmt, 1, false);
    }
}

jj_val sala_jj_strftime(jj *j, const jj_str *fmt, int64_t now)
{
    /* Years of at most 9999, as Python's dates have them. */
    if (now < -62135596800 || now > 253402300799)
        sala_jj_fail(j, SALA_E_LIMIT, "the time %lld has no date", (long long)now);
    const date d = date_of(now);
    jj_builder b = {.j = j};
    for (size_t at = 0; at < fmt->bytes; at++) {
        size_t p = at + 1;
        char flag = 0;
        if (fmt->data[at] != '%') {
            sala_jj_put_sub(&b, fmt, at, 1);
            continue;
        }
        if (p < fmt->bytes && fmt->data[p] && strchr("-_0^", fmt->data[p]))
            flag = fmt->data[p++];
        if (p >= fmt->bytes || !put_part(&b, &d, fmt->data[p], flag))
            sala_jj_put_sub(&b, fmt, at, 1); /* not a conversion: printed as it stands */
        else
            at = p;
    }
    return jj_finish_val(&b);
}
