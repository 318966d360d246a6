/* Layout is arithmetic on a fixed font size: text widths are estimated, which is enough for legends and labels. Numbers
 * are printed with fixed precision in the C locale, so that pictures can be compared byte by byte. */
#include "plot.h"

#include "cli.h"
#include "os/os.h"

#include <math.h>
#include <stdlib.h>

static const char INK[] = "#1f2430", SOFT[] = "#667085", GRID[] = "#e4e7ec", AXIS[] = "#98a2b3", PAPER[] = "#ffffff";
/* Distinguishable with any colour vision; markers differ too. */
static const char *const colours[] = {"#0b6fb8", "#d9541e", "#0a8f6a", "#b5529b",
                                      "#b98300", "#3fa9d6", "#6a4bb0", "#4a4f57"};
enum { N_COLOURS = 8, WIDTH = 860, MAX_TICKS = 24, MAX_SERIES = 16 };

static double text_width(const char *s, double size)
{
    int n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xC0) != 0x80;
    return 0.56 * size * n;
}

static void add_escaped(sala_buf *b, const char *s)
{
    const size_t n = strlen(s);
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        const int len = sala_utf8_decode(s + i, n - i, &cp);
        if (cp == '&')
            sala_buf_add_str(b, "&amp;");
        else if (cp == '<')
            sala_buf_add_str(b, "&lt;");
        else if (cp == '>')
            sala_buf_add_str(b, "&gt;");
        else if (cp == '"')
            sala_buf_add_str(b, "&quot;");
        else if (len == 0 || (cp < 32 && cp != '\t' && cp != '\n') || cp == 0xFFFE || cp == 0xFFFF)
            sala_buf_add_utf8(b, 0xFFFD); /* XML has no such characters */
        else
            sala_buf_add(b, s + i, (size_t)len);
        i += len ? (size_t)len : 1;
    }
}

static void add_text(sala_buf *b, double x, double y, double size, const char *anchor, const char *fill,
                     const char *extra, const char *text)
{
    sala_buf_printf(b, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"%.0f\" text-anchor=\"%s\" fill=\"%s\"%s>", x, y, size,
                    anchor, fill, extra);
    add_escaped(b, text);
    sala_buf_add_str(b, "</text>\n");
}

static void add_line(sala_buf *b, double x1, double y1, double x2, double y2, const char *stroke, const char *extra)
{
    sala_buf_printf(b, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"%s/>\n", x1, y1, x2, y2,
                    stroke, extra);
}

static void begin(sala_buf *b, double height, const char *title, const char *subtitle)
{
    sala_buf_printf(b,
                    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %.0f\" width=\"%d\" height=\"%.0f\" "
                    "font-family=\"Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif\">\n<title>",
                    WIDTH, height, WIDTH, height);
    add_escaped(b, title);
    sala_buf_printf(b, "</title>\n<rect width=\"%d\" height=\"%.0f\" fill=\"%s\"/>\n", WIDTH, height, PAPER);
    add_text(b, 24, 34, 18, "start", INK, " font-weight=\"bold\"", title);
    if (subtitle)
        add_text(b, 24, 54, 12, "start", SOFT, "", subtitle);
}

/* ---- scales ---- */

typedef struct scale {
    bool logarithmic, has_zero; /* has_zero: a logarithmic scale with a place for 0 at its beginning */
    double low, high;           /* ends, in values; in logarithms to base 2 when logarithmic */
    double from, to;            /* the same in the picture */
    double ticks[MAX_TICKS];
    int n_ticks;
} scale;

static double place(const scale *s, double v)
{
    double at;
    if (!s->logarithmic)
        at = v;
    else if (v > 0)
        at = log2(v);
    else
        at = s->low;
    return s->from + (s->to - s->from) * (at - s->low) / (s->high - s->low);
}

static void add_tick(scale *s, double v)
{
    if (s->n_ticks < MAX_TICKS)
        s->ticks[s->n_ticks++] = v;
}

typedef struct range {
    double low, high; /* of the positive values */
    bool any, zero;
} range;

static void widen(range *r, double v)
{
    if (isnan(v))
        return;
    if (v <= 0) {
        r->zero = true;
        return;
    }
    r->low = r->any && r->low < v ? r->low : v;
    r->high = r->any && r->high > v ? r->high : v;
    r->any = true;
}

/* 1, 2 or 5 times a power of ten (of 1024 for bytes: powers of two), so that about `want` steps fit. */
static double nice_step(double high, int want, cli_unit unit)
{
    const double raw = high / want;
    if (unit == CLI_UNIT_BYTES)
        return exp2(ceil(log2(raw)));
    const double power = pow(10, floor(log10(raw)));
    static const double steps[] = {1, 2, 2.5, 5, 10};
    for (size_t i = 0; i < SALA_ARRAY_LEN(steps); i++)
        if (steps[i] * power >= raw * 0.999999)
            return steps[i] * power;
    return 10 * power;
}

static void linear_ticks(scale *s, double high, cli_unit unit)
{
    const double step = nice_step(high > 0 ? high : 1, 5, unit);
    s->low = 0;
    s->high = step * ceil(high / step - 1e-9);
    if (s->high <= 0)
        s->high = step;
    for (int i = 0; i * step <= s->high * 1.000001; i++)
        add_tick(s, i * step);
}

/* Between round numbers around the values, which need not begin at 0. */
static void curve_ticks(scale *s, const range *r, int want)
{
    const double low = r->zero ? 0 : r->low, high = r->any && r->high > low ? r->high : low + 1;
    const double step = nice_step(high - low, want, CLI_UNIT_NUMBER);
    s->low = step * floor(low / step + 1e-9);
    s->high = step * ceil(high / step - 1e-9);
    for (int i = 0; s->low + i * step <= s->high + step * 1e-6; i++)
        add_tick(s, s->low + i * step);
}

static scale y_scale(const cli_panel *p, bool curves, double top, double bottom)
{
    scale s = {.from = bottom, .to = top};
    range r = {0};
    for (int i = 0; i < p->n_series; i++)
        for (int k = 0; k < p->series[i].n; k++)
            widen(&r, p->series[i].y[k]);
    if (curves && r.any && r.high <= 30 * r.low) {
        curve_ticks(&s, &r, 5);
        return s;
    }
    if (!r.any || r.high <= 30 * r.low) {
        linear_ticks(&s, r.any ? r.high : 1, p->unit);
        return s;
    }
    s.logarithmic = true;
    s.low = log2(r.low) - 0.25;
    s.high = log2(r.high) + 0.25;
    if (p->unit == CLI_UNIT_BYTES) {
        const double every = ceil((s.high - s.low) / 7);
        for (double e = ceil(s.low); e <= s.high; e += every)
            add_tick(&s, exp2(e));
    } else {
        const bool coarse = s.high - s.low > 14;
        for (double e = floor(s.low / log2(10)); e * log2(10) <= s.high; e++)
            for (int m = 1; m <= 5; m += m == 1 ? (coarse ? 9 : 1) : 3)
                if (log2(m * pow(10, e)) >= s.low && log2(m * pow(10, e)) <= s.high)
                    add_tick(&s, m * pow(10, e));
    }
    return s;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Ticks stand where something was measured, as far as there is room for their labels. */
static void measured_ticks(scale *s, double *xs, int n)
{
    qsort(xs, (size_t)n, sizeof *xs, compare_doubles);
    double last = -1e9;
    for (int i = 0; i < n; i++)
        if (place(s, xs[i]) - last >= 30) {
            last = place(s, xs[i]);
            add_tick(s, xs[i]);
        }
}

static scale x_scale(const cli_chart *c, double left, double right)
{
    enum { MOST = 1024 };
    scale s = {.from = left, .to = right};
    range r = {0};
    double xs[MOST];
    int n = 0;
    for (int p = 0; p < c->n_panels; p++)
        for (int i = 0; i < c->panels[p].n_series; i++) {
            const cli_series *line = &c->panels[p].series[i];
            for (int k = 0; k <= line->n; k++) {
                const double x = k < line->n ? line->x[k] : line->stops_at;
                widen(&r, x);
                if (!isnan(x) && n < MOST)
                    xs[n++] = x;
            }
        }
    if (!r.any) {
        s.high = 1;
        add_tick(&s, 0);
        return s;
    }
    if (c->curves) {
        curve_ticks(&s, &r, 8);
        s.low = r.zero ? 0 : r.low; /* the ends are those of the data */
        s.high = r.high > s.low ? r.high : s.low + 1;
        int first = 0;
        while (first < s.n_ticks && s.ticks[first] < s.low)
            first++;
        while (s.n_ticks > first && s.ticks[s.n_ticks - 1] > s.high)
            s.n_ticks--;
        memmove(s.ticks, s.ticks + first, (size_t)(s.n_ticks - first) * sizeof *s.ticks);
        s.n_ticks -= first;
        return s;
    }
    s.logarithmic = r.high > 16 * r.low;
    s.has_zero = s.logarithmic && r.zero;
    if (s.logarithmic) {
        s.low = log2(r.low) - (r.zero ? 1.5 : 0.2);
        s.high = log2(r.high) + 0.2;
    } else {
        s.low = r.zero || r.low == r.high ? 0 : r.low;
        s.high = r.high;
    }
    measured_ticks(&s, xs, n);
    return s;
}

/* "4K", "1M" for counts of tokens; at most 31 bytes. */
static const char *depth_label(char dst[32], double v)
{
    if (v >= 1048576 && fmod(v, 1048576) == 0)
        snprintf(dst, 32, "%.0fM", v / 1048576);
    else if (v >= 1024 && fmod(v, 1024) == 0)
        snprintf(dst, 32, "%.0fK", v / 1024);
    else
        snprintf(dst, 32, "%.6g", v);
    return dst;
}

static const char *value_label(char dst[32], double v, cli_unit unit)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    if (unit == CLI_UNIT_BYTES) {
        int u = 0;
        for (; v >= 1000 && u < 4; u++) /* 1000: never four digits */
            v /= 1024;
        snprintf(dst, 32, v > 0 && v < 10 && v != floor(v) ? "%.1f %s" : "%.0f %s", v, units[u]);
    } else {
        snprintf(dst, 32, v >= 1000 ? "%.0f" : v >= 100 ? "%.4g" : "%.3g", v);
    }
    return dst;
}

/* ---- lines ---- */

static const double LEFT = 78, RIGHT = WIDTH - 92, PANEL = 208, PANEL_GAP = 56;

static void add_marker(sala_buf *b, int series, double x, double y)
{
    const char *colour = colours[series % N_COLOURS];
    switch (series % 4) {
    case 0:
        sala_buf_printf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.8\"", x, y);
        break;
    case 1:
        sala_buf_printf(b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"7\" height=\"7\"", x - 3.5, y - 3.5);
        break;
    case 2:
        sala_buf_printf(b, "<path d=\"M%.1f %.1fl4.6 8h-9.2z\"", x, y - 5);
        break;
    default:
        sala_buf_printf(b, "<path d=\"M%.1f %.1fl4.8 4.8l-4.8 4.8l-4.8 -4.8z\"", x, y - 4.8);
        break;
    }
    sala_buf_printf(b, " fill=\"%s\" stroke=\"%s\"/>\n", colour, PAPER);
}

static void add_cross(sala_buf *b, double x, double y, const char *colour)
{
    sala_buf_printf(b, "<path d=\"M%.1f %.1fl8 8m0 -8l-8 8\" stroke=\"%s\" stroke-width=\"2\" fill=\"none\"/>\n", x - 4,
                    y - 4, colour);
}

/* Returns the y below the legend. Names stand in rows, in the order of the series. */
static double add_legend(sala_buf *b, const cli_chart *c, double y)
{
    const cli_panel *p = &c->panels[0];
    double x = 24;
    bool stops = false;
    for (int k = 0; k < c->n_panels; k++)
        for (int i = 0; i < c->panels[k].n_series; i++)
            stops |= !isnan(c->panels[k].series[i].stops_at);
    const bool explain = stops && c->stop_words;
    if (p->n_series == 0 && !explain)
        return y;
    for (int i = 0; i < p->n_series + explain; i++) {
        const char *name = i < p->n_series ? p->series[i].name : c->stop_words;
        const double width = 34 + text_width(name, 12) + 18;
        if (x > 24 && x + width > WIDTH - 12) {
            x = 24;
            y += 20;
        }
        if (i < p->n_series) {
            add_line(b, x, y - 4, x + 24, y - 4, colours[i % N_COLOURS], " stroke-width=\"2\"");
            if (!c->curves)
                add_marker(b, i, x + 12, y - 4);
        } else {
            add_cross(b, x + 12, y - 4, SOFT);
        }
        add_text(b, x + 30, y, 12, "start", INK, "", name);
        x += width;
    }
    return y + 12;
}

static double legend_height(const cli_chart *c)
{
    sala_buf ignored = {0};
    const double height = add_legend(&ignored, c, 0);
    sala_buf_free(&ignored);
    return height;
}

typedef struct end_label {
    double y;
    int series;
    char text[32];
} end_label;

static int compare_labels(const void *a, const void *b)
{
    const end_label *x = a, *y = b;
    return x->y != y->y ? (x->y > y->y) - (x->y < y->y) : x->series - y->series;
}

/* The last value of each line, beside it; labels that would cover one another are pushed apart. */
static void add_end_labels(sala_buf *b, end_label *labels, int n, double top, double bottom)
{
    enum { APART = 13 };
    qsort(labels, (size_t)n, sizeof *labels, compare_labels);
    for (int i = 0; i < n; i++) {
        const double least = i ? labels[i - 1].y + APART : top + 4;
        labels[i].y = labels[i].y < least ? least : labels[i].y;
    }
    for (int i = n - 1; i >= 0; i--) {
        const double most = i < n - 1 ? labels[i + 1].y - APART : bottom + 4;
        labels[i].y = labels[i].y > most ? most : labels[i].y;
    }
    for (int i = 0; i < n; i++)
        add_text(b, RIGHT + 8, labels[i].y, 11, "start", colours[labels[i].series % N_COLOURS], " font-weight=\"bold\"",
                 labels[i].text);
}

static void add_series(sala_buf *b, const cli_series *line, int number, bool marks, const scale *sx, const scale *sy)
{
    const char *colour = colours[number % N_COLOURS];
    sala_buf path = {0};
    double last_x = NAN, last_y = NAN;
    for (int k = 0; k < line->n; k++) {
        if (isnan(line->y[k]) || (sy->logarithmic && line->y[k] <= 0))
            continue;
        const double x = place(sx, line->x[k]), y = place(sy, line->y[k]);
        sala_buf_printf(&path, "%s%.1f %.1f", path.len ? "L" : "M", x, y);
        last_x = x;
        last_y = y;
    }
    if (path.len)
        sala_buf_printf(b,
                        "<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"%s\" stroke-linejoin=\"round\"/>\n",
                        path.data, colour, marks ? "2" : "1.5");
    b->failed |= path.failed;
    sala_buf_free(&path);
    for (int k = 0; k < line->n && marks; k++)
        if (!isnan(line->y[k]) && !(sy->logarithmic && line->y[k] <= 0))
            add_marker(b, number, place(sx, line->x[k]), place(sy, line->y[k]));
    if (!isnan(line->stops_at) && !isnan(last_x)) {
        const double x = place(sx, line->stops_at);
        add_line(b, last_x, last_y, x, last_y, colour, " stroke-width=\"1.5\" stroke-dasharray=\"2 4\"");
        add_cross(b, x, last_y, colour);
    }
}

static void add_panel(sala_buf *b, const cli_chart *c, const cli_panel *p, double top)
{
    const double bottom = top + PANEL;
    const scale sx = x_scale(c, LEFT + (c->n_panels ? 10 : 0), RIGHT - 10), sy = y_scale(p, c->curves, top + 6, bottom);
    char label[32];
    add_text(b, LEFT, top - 10, 13, "start", INK, " font-weight=\"bold\"", p->title);
    for (int i = 0; i < sy.n_ticks; i++) {
        const double y = place(&sy, sy.ticks[i]);
        add_line(b, LEFT, y, RIGHT, y, GRID, "");
        add_text(b, LEFT - 8, y + 4, 11, "end", SOFT, "", value_label(label, sy.ticks[i], p->unit));
    }
    for (int i = 0; i < sx.n_ticks; i++) {
        const double x = place(&sx, sx.ticks[i]);
        add_line(b, x, top, x, bottom, GRID, "");
        add_line(b, x, bottom, x, bottom + 4, AXIS, "");
        add_text(b, x, bottom + 17, 11, "middle", SOFT, "", depth_label(label, sx.ticks[i]));
    }
    add_line(b, LEFT, bottom, RIGHT, bottom, AXIS, "");
    if (sx.has_zero) { /* the axis is broken between 0 and the first power */
        const double x = (place(&sx, 0) + place(&sx, exp2(sx.low + 1.5))) / 2;
        sala_buf_printf(b, "<path d=\"M%.1f %.1fl5 -10h4l-5 10z\" fill=\"%s\"/>\n", x - 4, bottom + 5, PAPER);
        add_line(b, x - 4, bottom + 5, x + 1, bottom - 5, AXIS, "");
        add_line(b, x, bottom + 5, x + 5, bottom - 5, AXIS, "");
    }
    end_label labels[MAX_SERIES];
    int n_labels = 0;
    for (int i = 0; i < p->n_series; i++) {
        const cli_series *line = &p->series[i];
        add_series(b, line, i, !c->curves || line->n == 1, &sx, &sy);
        for (int k = line->n - 1; k >= 0 && n_labels < MAX_SERIES; k--)
            if (!isnan(line->y[k]) && !(sy.logarithmic && line->y[k] <= 0)) {
                labels[n_labels].series = i;
                labels[n_labels].y = place(&sy, line->y[k]) + 4;
                value_label(labels[n_labels++].text, line->y[k], p->unit);
                break;
            }
    }
    add_end_labels(b, labels, n_labels, top, bottom);
}

void cli_plot_lines(sala_buf *out, const cli_chart *c)
{
    const double head = (c->subtitle ? 82 : 64) + legend_height(c) + 24;
    const double height = head + c->n_panels * (PANEL + PANEL_GAP) + 8;
    begin(out, height, c->title, c->subtitle);
    add_legend(out, c, c->subtitle ? 82 : 64);
    for (int p = 0; p < c->n_panels; p++)
        add_panel(out, c, &c->panels[p], head + p * (PANEL + PANEL_GAP));
    add_text(out, (LEFT + RIGHT) / 2, height - 16, 12, "middle", SOFT, "", c->x_title);
    sala_buf_add_str(out, "</svg>\n");
}

/* ---- heat map ---- */

/* From paper to dark blue; v in [0, 1]. */
static void heat_colour(char dst[8], double v)
{
    static const double stops[][3] = {{250, 251, 253}, {214, 229, 243}, {147, 194, 222},
                                      {66, 135, 190},  {18, 79, 147},   {8, 38, 86}};
    const int last = (int)SALA_ARRAY_LEN(stops) - 1;
    v = v < 0 ? 0 : v > 1 ? 1 : v;
    const int i = v >= 1 ? last - 1 : (int)(v * last);
    const double part = v * last - i;
    int rgb[3];
    for (int k = 0; k < 3; k++)
        rgb[k] = (int)lround(stops[i][k] + part * (stops[i + 1][k] - stops[i][k]));
    snprintf(dst, 8, "#%02x%02x%02x", rgb[0] & 255, rgb[1] & 255, rgb[2] & 255);
}

static void add_colour_bar(sala_buf *b, double x, double y, double width, double most, const char *words)
{
    enum { STEPS = 48 };
    char colour[8], label[32];
    for (int i = 0; i < STEPS; i++) {
        heat_colour(colour, (i + 0.5) / STEPS);
        sala_buf_printf(b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"10\" fill=\"%s\"/>\n",
                        x + width * i / STEPS, y, width / STEPS + 0.3, colour);
    }
    for (int i = 0; i <= 2; i++) {
        snprintf(label, sizeof label, "%.3g %%", 100 * most * i / 2);
        add_text(b, x + width * i / 2, y + 23, 10, "middle", SOFT, "", label);
    }
    add_text(b, x + width + 24, y + 9, 11, "start", SOFT, "", words);
}

void cli_plot_heat(sala_buf *out, const cli_heat *h)
{
    const double left = 86, right = WIDTH - 24, top = 96;
    double cell = h->n_rows > 0 ? 620.0 / h->n_rows : 20;
    cell = cell > 20 ? 20 : cell < 6 ? 6 : cell;
    const double width = (right - left) / (h->n_columns > 0 ? h->n_columns : 1);
    const double bottom = top + cell * h->n_rows, height = bottom + 104;
    double most = 0;
    for (int i = 0; i < h->n_rows * h->n_columns; i++)
        most = !isnan(h->share[i]) && h->share[i] > most ? h->share[i] : most;
    begin(out, height, h->title, h->subtitle);
    add_text(out, left - 8, top - 8, 11, "end", SOFT, "", h->row_title);
    const int every_row = (int)ceil(11 / cell);
    for (int r = 0; r < h->n_rows; r++) {
        const double y = top + r * cell;
        if (r % every_row == 0)
            add_text(out, left - 8, y + cell / 2 + 4, 11, "end", SOFT, "", h->row_labels[r]);
        for (int c = 0; c < h->n_columns; c++) {
            const double v = h->share[r * h->n_columns + c];
            char colour[8] = "#eceef1";
            if (!isnan(v))
                heat_colour(colour, most > 0 ? v / most : 0);
            sala_buf_printf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"><title>",
                            left + c * width, y, width + 0.2, cell - (cell > 9 ? 1 : 0), colour);
            add_escaped(out, h->row_labels[r]);
            sala_buf_add_str(out, ", ");
            add_escaped(out, h->column_labels[c]);
            if (isnan(v))
                sala_buf_add_str(out, ": no value</title></rect>\n");
            else
                sala_buf_printf(out, ": %.2f %%</title></rect>\n", 100 * v);
        }
    }
    double last = -1e9;
    for (int c = 0; c < h->n_columns; c++) {
        const double x = left + (c + 0.5) * width, half = text_width(h->column_labels[c], 11) / 2;
        if (x - half < last + 8)
            continue;
        add_line(out, x, bottom, x, bottom + 4, AXIS, "");
        add_text(out, x, bottom + 17, 11, "middle", SOFT, "", h->column_labels[c]);
        last = x + half;
    }
    add_text(out, (left + right) / 2, bottom + 38, 12, "middle", SOFT, "", h->column_title);
    add_colour_bar(out, left, bottom + 58, 180, most, h->share_words);
    sala_buf_add_str(out, "</svg>\n");
}

int cli_plot_write(const char *path, sala_buf *svg)
{
    if (svg->failed)
        return cli_fail("not enough memory for the picture");
    sala_out_file *f;
    int why = sala_os_out_open(&f, path);
    if (why == 0) {
        why = sala_os_out_write(f, svg->data, svg->len);
        const int later = sala_os_out_commit(f);
        why = why ? why : later;
    }
    return why ? cli_fail("%s: %s", path, strerror(why)) : 0;
}
