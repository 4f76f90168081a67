package ui

import (
	"cmp"
	"slices"
)

// Measures of the drawing, in pixels.
const (
	boxWidth, boxHeight = 230, 44
	laneHeight          = 12      // of an edge that passes a column
	gapX, gapY          = 170, 18 // gapX has room for the edges' labels
	margin, groupHead   = 24, 34
)

type point struct{ x, y int }

// arrow is all edges from one node to another, drawn as one line. Where it
// passes columns it has a lane in each, so that it does not cross boxes.
type arrow struct {
	edges []drawnEdge
	lanes []int // items, from the first passed column on
}

func (a *arrow) from() int { return a.edges[0].from }
func (a *arrow) to() int   { return a.edges[0].to }

// item is what stands in a column: a node, or the lane of an arrow.
type item struct {
	node, arrow int // one of them is -1
	at          point
	tied        []int // items in other columns that it should be level with
}

func (i *item) height() int {
	if i.node < 0 {
		return laneHeight
	}
	return boxHeight
}

// layout places a drawing: each group is a band, its waves are columns from
// left to right, so that what is needed stands left of what needs it.
type layout struct {
	drawing       *drawing
	arrows        []arrow
	items         []item // the first are the nodes, by number
	bands         []band
	width, height int
}

type band struct {
	y, height int
	columns   [][]int // items
}

func newLayout(g *drawing) *layout {
	l := &layout{drawing: g, items: make([]item, len(g.nodes)), bands: make([]band, len(g.groups))}
	for i := range g.nodes {
		l.items[i] = item{node: i, arrow: -1}
	}
	l.joinEdges()
	band, column := make([]int, len(g.nodes)), make([]int, len(g.nodes))
	for i, grp := range g.groups {
		var waves []int
		for _, n := range grp.nodes {
			waves = append(waves, g.nodes[n].wave)
		}
		slices.Sort(waves)
		waves = slices.Compact(waves)
		l.bands[i].columns = make([][]int, len(waves))
		for _, n := range grp.nodes {
			c, _ := slices.BinarySearch(waves, g.nodes[n].wave)
			band[n], column[n] = i, c
			l.bands[i].columns[c] = append(l.bands[i].columns[c], n)
		}
	}
	for a := range l.arrows {
		from, to := l.arrows[a].from(), l.arrows[a].to()
		last := from
		if band[from] == band[to] && column[from] != column[to] {
			step := cmp.Compare(column[to], column[from])
			for c := column[from] + step; c != column[to]; c += step {
				lane := len(l.items)
				l.items = append(l.items, item{node: -1, arrow: a})
				l.arrows[a].lanes = append(l.arrows[a].lanes, lane)
				l.bands[band[from]].columns[c] = append(l.bands[band[from]].columns[c], lane)
				l.tie(last, lane)
				last = lane
			}
			l.tie(last, to)
		}
	}
	l.place()
	return l
}

func (l *layout) tie(a, b int) {
	l.items[a].tied, l.items[b].tied = append(l.items[a].tied, b), append(l.items[b].tied, a)
}

func (l *layout) joinEdges() {
	type ends struct{ from, to int }
	index := map[ends]int{}
	for _, e := range l.drawing.edges {
		k := ends{e.from, e.to}
		i, ok := index[k]
		if !ok {
			i = len(l.arrows)
			index[k] = i
			l.arrows = append(l.arrows, arrow{})
		}
		l.arrows[i].edges = append(l.arrows[i].edges, e)
	}
}

// place orders each column so that lines cross little, and gives all items
// their position.
func (l *layout) place() {
	y := margin
	for i := range l.bands {
		b := &l.bands[i]
		b.y = y
		tallest := 0
		for range 8 {
			for _, column := range b.columns {
				l.order(column)
			}
		}
		for _, column := range b.columns {
			tallest = max(tallest, l.tall(column))
		}
		for c, column := range b.columns {
			// Short columns stand in the middle of their band.
			top := y + groupHead + (tallest-l.tall(column))/2
			for _, it := range column {
				l.items[it].at = point{2*margin + c*(boxWidth+gapX), top}
				top += l.items[it].height() + gapY
			}
		}
		b.height = groupHead + tallest
		l.width = max(l.width, 4*margin+len(b.columns)*(boxWidth+gapX)-gapX)
		y += b.height + margin
	}
	l.height = y
}

func (l *layout) tall(column []int) (h int) {
	for _, it := range column {
		h += l.items[it].height() + gapY
	}
	return h
}

// order sorts a column by the middle of what each item is tied to. Positions
// are kept in at.y meanwhile, as thousandths of the column's length.
func (l *layout) order(column []int) {
	middle := map[int]int{}
	for _, it := range column {
		sum, n := l.items[it].at.y, 1
		for _, other := range l.items[it].tied {
			sum, n = sum+l.items[other].at.y, n+1
		}
		middle[it] = sum / n
	}
	slices.SortStableFunc(column, func(a, b int) int { return cmp.Compare(middle[a], middle[b]) })
	for row, it := range column {
		l.items[it].at.y = (2*row + 1) * 500 / len(column)
	}
}

// curve is one bend of an arrow, with horizontal ends.
type curve struct{ a, b, c, d point }

func (c curve) at(s float64) (x, y float64) {
	mix := func(a, b, c, d int) float64 {
		r := 1 - s
		return r*r*r*float64(a) + 3*r*r*s*float64(b) + 3*r*s*s*float64(c) + s*s*s*float64(d)
	}
	return mix(c.a.x, c.b.x, c.c.x, c.d.x), mix(c.a.y, c.b.y, c.c.y, c.d.y)
}

// route is the way of an arrow: a bend in each gap; in between it runs
// straight through its lanes.
func (l *layout) route(a *arrow) []curve {
	from, to := l.items[a.from()].at, l.items[a.to()].at
	start, end := point{from.x, from.y + boxHeight/2}, point{to.x, to.y + boxHeight/2}
	bend := func(a, b point) curve {
		half := (b.x - a.x) / 2
		return curve{a, point{a.x + half, a.y}, point{b.x - half, b.y}, b}
	}
	switch {
	case from.x == to.x: // the same wave: around the right side
		start.x, end.x = start.x+boxWidth, end.x+boxWidth
		out := gapX / 3
		return []curve{{start, point{start.x + out, start.y}, point{end.x + out, end.y}, end}}
	case from.x < to.x: // to the right, towards something later
		start.x += boxWidth
	default:
		end.x += boxWidth
	}
	var out []curve
	at := start
	for _, lane := range a.lanes {
		left := point{l.items[lane].at.x, l.items[lane].at.y + laneHeight/2}
		right := point{left.x + boxWidth, left.y}
		if from.x > to.x {
			left, right = right, left
		}
		out = append(out, bend(at, left))
		at = right
	}
	return append(out, bend(at, end))
}
