package ui

import (
	"fmt"
	"strings"
)

const style = `<style>
  .ground{fill:#fff} .group{fill:#f6f8fa;stroke:#d0d7de} .title{font-size:14px;font-weight:bold;fill:#24292f}
  .node{fill:#fff;stroke:#57606a} .workload{fill:#ddf4ff;stroke:#0969da;stroke-width:2} .outside{stroke-dasharray:4 3;fill:#fffbf0}
  .kind{fill:#57606a;font-size:10px} .name{fill:#24292f}
  .edge{fill:none;stroke:#8c959f} .edge.strong{stroke:#bc4c00;stroke-width:2} .edge.loose{stroke-dasharray:4 3}
  .label{font-size:10px;fill:#57606a;paint-order:stroke;stroke:#f6f8fa;stroke-width:3px;text-anchor:middle} .label.strong{fill:#bc4c00}
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#57606a"/></marker></defs>`

// maxText is how many characters fit into a box.
const maxText = 34

// svg draws the graph without help from another program. What a label cuts
// short is in the title that a browser shows under the pointer.
func (t *text) svg(g *drawing) {
	l := newLayout(g)
	t.line(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="12">`, l.width, l.height, l.width, l.height)
	t.line("%s", style)
	t.line(`<rect class="ground" width="%d" height="%d"/>`, l.width, l.height)
	for i, grp := range g.groups {
		b := l.bands[i]
		t.line(`<rect class="group" x="%d" y="%d" width="%d" height="%d" rx="8"/>`, margin, b.y, l.width-2*margin, b.height)
		t.line(`<text class="title" x="%d" y="%d">%s</text>`, margin+14, b.y+22, escape(grp.name))
	}
	labels := t.arrows(l)
	for i, n := range g.nodes {
		class := "node"
		switch {
		case n.outside:
			class += " outside"
		case n.workload:
			class += " workload"
		}
		p := l.items[i].at
		t.line(`<g><title>%s</title><rect class="%s" x="%d" y="%d" width="%d" height="%d" rx="6"/>`, escape(n.ref.String()), class, p.x, p.y, boxWidth, boxHeight)
		t.line(`<text class="kind" x="%d" y="%d">%s</text><text class="name" x="%d" y="%d">%s</text></g>`,
			p.x+10, p.y+16, escape(shorten(n.kind, maxText)), p.x+10, p.y+33, escape(shorten(n.name, maxText)))
	}
	// Labels last, so that nothing covers them.
	for _, label := range labels {
		t.line("%s", label)
	}
	t.line(`</svg>`)
}

// arrows draws the lines and returns their labels.
func (t *text) arrows(l *layout) (labels []string) {
	var taken []label
	for i := range l.arrows {
		a := &l.arrows[i]
		var types, titles []string
		strong, weak := false, false
		for _, e := range a.edges {
			strong, weak = strong || e.strong, weak || e.weak
			types, titles = append(types, e.typ), append(titles, e.typ+": "+e.field)
		}
		class := ""
		switch {
		case strong:
			class = " strong"
		case !weak:
			class = " loose"
		}
		way := l.route(a)
		var path strings.Builder
		fmt.Fprintf(&path, "M%d,%d", way[0].a.x, way[0].a.y)
		for j, c := range way {
			if j > 0 {
				fmt.Fprintf(&path, " L%d,%d", c.a.x, c.a.y)
			}
			fmt.Fprintf(&path, " C%d,%d %d,%d %d,%d", c.b.x, c.b.y, c.c.x, c.c.y, c.d.x, c.d.y)
		}
		t.line(`<path class="edge%s" d="%s" marker-end="url(#tip)"><title>%s</title></path>`, class, path.String(), escape(strings.Join(titles, "; ")))
		words := strings.Join(types, ", ")
		p := free(way[0], words, &taken)
		labels = append(labels, fmt.Sprintf(`<text class="label%s" x="%.0f" y="%.0f">%s</text>`, class, p.x, p.y, escape(words)))
	}
	return labels
}

type label struct{ x, y, half float64 }

// free finds a place on a curve where the label covers no other, as far as
// there is one.
func free(c curve, words string, taken *[]label) label {
	var best label
	for i, s := range []float64{0.5, 0.35, 0.65, 0.22, 0.78} {
		x, y := c.at(s)
		l := label{x, y - 3, float64(len(words)) * 2.9}
		clear := true
		for _, o := range *taken {
			if d := l.x - o.x; d < l.half+o.half && -d < l.half+o.half && l.y-o.y < 11 && o.y-l.y < 11 {
				clear = false
				break
			}
		}
		if i == 0 || clear {
			best = l
		}
		if clear {
			break
		}
	}
	*taken = append(*taken, best)
	return best
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(oneLine(s))
}
