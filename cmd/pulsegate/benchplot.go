package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
)

// The plot's measures, in pixels.
const (
	plotWidth  = 820.0
	plotLeft   = 74.0
	plotRight  = 20.0
	plotTop    = 90.0
	plotHeight = 190.0 // of one panel
	plotGap    = 52.0  // between the panels
	plotBottom = 58.0
)

// plotStyle reads on light and on dark paper.
const plotStyle = `<style>
text{font:13px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#57606a}
.title{font-size:16px;font-weight:600}.panel{font-weight:600}.tick{font-size:12px}
.grid{stroke:#8c959f;stroke-opacity:.28}.axis{stroke:#8c959f}.ideal{stroke:#8c959f;stroke-dasharray:2 4}
.relay{stroke:#bf8700;fill:none;stroke-width:2}.gateway{stroke:#2f81f7;fill:none;stroke-width:2}.p99{stroke-dasharray:7 4}
.dot-relay{fill:#bf8700}.dot-gateway{fill:#2f81f7}
@media (prefers-color-scheme:dark){text{fill:#a5adb6}}
</style>
`

// plot draws the ladder as SVG: above, what came to the bots; below, how long it took; both against what was offered.
func (l benchLadder) plot() []byte {
	most, slowest, fastest := 1.0, 1.0, 1.0
	for _, r := range slices.Concat(l.Relay, l.Gateway) {
		most = max(most, r.Offered, r.Rate)
		slowest = max(slowest, r.Arrival.P99)
		fastest = min(fastest, r.Arrival.P50)
	}
	p := &plotter{across: plotAxis{most: most * 1.03, from: plotLeft, to: plotWidth - plotRight}}
	height := plotTop + 2*plotHeight + plotGap + plotBottom
	p.write(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" role="img" aria-label="throughput and latency of gateway and relay against offered load">`+"\n", plotWidth, height)
	p.write("%s", plotStyle)
	p.text(plotLeft, 24, "title", "start", fmt.Sprintf("Throughput and latency against load, %s registrations", thousands(float64(l.Registrations))))
	p.legend(46)
	p.up = plotAxis{most: most * 1.03, from: plotTop + plotHeight, to: plotTop}
	p.panel("events/s at the bots", linearTicks(p.up.most), thousands)
	p.line("ideal", []plotPoint{{0, 0}, {most, most}})
	p.series(l, func(r benchResult) float64 { return r.Rate }, "")
	p.up = plotAxis{
		least: math.Pow(10, math.Floor(math.Log10(max(fastest, 0.01)))), most: math.Pow(10, max(1, math.Ceil(math.Log10(slowest)))), log: true,
		from: plotTop + 2*plotHeight + plotGap, to: plotTop + plotHeight + plotGap,
	}
	p.panel("ms from when an event was due until the bot had it (log scale)", decades(p.up.least, p.up.most), plain)
	p.series(l, arrivalP50, "")
	p.series(l, arrivalP99, " p99")
	for _, tick := range linearTicks(p.across.most) {
		p.text(p.across.at(tick), p.up.from+20, "tick", "middle", thousands(tick))
	}
	p.text((plotLeft+plotWidth-plotRight)/2, p.up.from+44, "", "middle", "events/s offered, at random times")
	p.write("</svg>\n")
	return p.Bytes()
}

// plotter writes SVG.
type plotter struct {
	bytes.Buffer
	across, up plotAxis
}

// plotAxis maps values to pixels.
type plotAxis struct {
	least, most float64
	from, to    float64
	log         bool
}

func (a plotAxis) at(v float64) float64 {
	share := v / a.most
	if a.log {
		share = math.Log(max(v, a.least)/a.least) / math.Log(a.most/a.least)
	}
	return a.from + share*(a.to-a.from)
}

type plotPoint struct{ x, y float64 }

func (p *plotter) write(format string, args ...any) { _, _ = fmt.Fprintf(&p.Buffer, format, args...) }

func (p *plotter) text(x, y float64, class, anchor, text string) {
	p.write(`<text x="%.1f" y="%.1f" class="%s" text-anchor="%s">%s</text>`+"\n", x, y, class, anchor, text)
}

// legend says what the lines are.
func (p *plotter) legend(y float64) {
	x := plotLeft
	for _, one := range []struct{ class, text string }{
		{"gateway", "gateway, p50"}, {"gateway p99", "gateway, p99"}, {"relay", "bare relay, p50"}, {"relay p99", "bare relay, p99"}, {"ideal", "as offered"},
	} {
		p.write(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`+"\n", x, y-4, x+26, y-4, one.class)
		p.text(x+32, y, "tick", "start", one.text)
		x += 62 + 6.6*float64(len(one.text))
	}
}

// panel draws the grid of one panel.
func (p *plotter) panel(title string, ticks []float64, label func(float64) string) {
	p.text(plotLeft, p.up.to-8, "panel", "start", title)
	for _, tick := range ticks {
		y := p.up.at(tick)
		p.write(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="grid"/>`+"\n", p.across.from, y, p.across.to, y)
		p.text(p.across.from-8, y+4, "tick", "end", label(tick))
	}
	for _, tick := range linearTicks(p.across.most) {
		p.write(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="grid"/>`+"\n", p.across.at(tick), p.up.from, p.across.at(tick), p.up.to)
	}
	p.write(`<path d="M%.1f %.1fV%.1fH%.1f" class="axis" fill="none"/>`+"\n", p.across.from, p.up.to, p.up.from, p.across.to)
}

// series draws one figure of relay and gateway.
func (p *plotter) series(l benchLadder, figure func(benchResult) float64, class string) {
	for _, one := range []struct {
		name string
		runs []benchResult
	}{{partRelay, l.Relay}, {partGateway, l.Gateway}} {
		var points []plotPoint
		for _, r := range one.runs {
			points = append(points, plotPoint{r.Offered, figure(r)})
		}
		p.line(one.name+class, points)
		for _, point := range points {
			p.write(`<circle cx="%.1f" cy="%.1f" r="3" class="dot-%s"/>`+"\n", p.across.at(point.x), p.up.at(point.y), one.name)
		}
	}
}

func (p *plotter) line(class string, points []plotPoint) {
	var path strings.Builder
	for _, point := range points {
		_, _ = fmt.Fprintf(&path, "%.1f,%.1f ", p.across.at(point.x), p.up.at(point.y))
	}
	p.write(`<polyline points="%s" class="%s" fill="none"/>`+"\n", strings.TrimSpace(path.String()), class)
}

// linearTicks are round numbers from 0 up to most, some five of them.
func linearTicks(most float64) []float64 {
	step := math.Pow(10, math.Floor(math.Log10(most/4)))
	for _, times := range []float64{5, 2} {
		if most/(step*times) >= 4 {
			step *= times
			break
		}
	}
	var ticks []float64
	for tick := 0.0; tick <= most; tick += step {
		ticks = append(ticks, tick)
	}
	return ticks
}

// decades are the powers of ten from least to most.
func decades(least, most float64) []float64 {
	var ticks []float64
	for tick := least; tick < most*1.01; tick *= 10 {
		ticks = append(ticks, tick)
	}
	return ticks
}

// plain spells a power of ten.
func plain(v float64) string {
	if v >= 1 {
		return thousands(v)
	}
	return fmt.Sprintf("%.3g", v)
}

// thousands spells a whole number with commas.
func thousands(v float64) string {
	text := fmt.Sprintf("%.0f", v)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
