package main

import (
	"bytes"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Okabe and Ito's colours, which colour-blind readers tell apart.
var (
	blue   = color.RGBA{0x00, 0x72, 0xb2, 0xff}
	orange = color.RGBA{0xd5, 0x5e, 0x00, 0xff}
	green  = color.RGBA{0x00, 0x9e, 0x73, 0xff}
)

var (
	solid  = []vg.Length(nil)
	dashed = []vg.Length{5, 3}
	dotted = []vg.Length{1, 3}
)

// chart is panels that share a legend at their right.
type chart struct {
	panels [][]*plot.Plot
	legend plot.Legend
	named  map[string]bool // in the legend
}

type line struct {
	color  color.Color
	dashes []vg.Length
	glyph  draw.GlyphDrawer
}

func newChart(rows, columns int) *chart {
	c := &chart{legend: plot.NewLegend(), named: map[string]bool{}}
	for range rows {
		var row []*plot.Plot
		for range columns {
			p := plot.New()
			for _, style := range []*draw.TextStyle{&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label} {
				style.Font = sans
			}
			p.Title.Padding = 6
			grid := plotter.NewGrid()
			grid.Horizontal.Color, grid.Vertical.Color = color.Gray{0xd0}, color.Gray{0xd0}
			p.Add(grid)
			row = append(row, p)
		}
		c.panels = append(c.panels, row)
	}
	c.legend.Top, c.legend.Left, c.legend.TextStyle.Font = true, true, sans
	c.legend.ThumbnailWidth, c.legend.Padding = 26, 4
	return c
}

var sans = font.Font{Typeface: "Liberation", Variant: "Sans", Size: 10}

// line adds a line to a panel, and its name to the legend; nothing without points.
func (c *chart) line(p *plot.Plot, name string, style line, points plotter.XYs) error {
	if len(points) == 0 {
		return nil
	}
	l, dots, err := plotter.NewLinePoints(points)
	if err != nil {
		return err
	}
	l.Color, l.Dashes, l.Width = style.color, style.dashes, 1.5
	dots.Color, dots.Shape, dots.Radius = style.color, style.glyph, 2.5
	p.Add(l, dots)
	c.name(name, l, dots)
	return nil
}

// errorBars are medians, and how far the least and the greatest are from them.
type errorBars struct {
	plotter.XYs
	plotter.YErrors
}

// bars adds points with the least and the greatest, likewise.
func (c *chart) bars(p *plot.Plot, name string, style line, values errorBars) error {
	if values.Len() == 0 {
		return nil
	}
	dots, err := plotter.NewScatter(values)
	if err != nil {
		return err
	}
	errs, err := plotter.NewYErrorBars(values)
	if err != nil {
		return err
	}
	dots.Color, dots.Shape, dots.Radius = style.color, style.glyph, 2.5
	errs.Color, errs.Width = style.color, 1.2
	p.Add(errs, dots)
	c.name(name, dots)
	return nil
}

func (c *chart) name(name string, thumbs ...plot.Thumbnailer) {
	if !c.named[name] {
		c.legend.Add(name, thumbs...)
		c.named[name] = true
	}
}

// size of one panel, and of the legend.
const width, height, legendWidth = 9 * vg.Centimeter, 7 * vg.Centimeter, 5.8 * vg.Centimeter

// size is wider by half if there is one panel only.
func (c *chart) size() (w, h vg.Length) {
	rows, columns := vg.Length(len(c.panels)), vg.Length(len(c.panels[0]))
	if columns == 1 {
		return 1.5*width + legendWidth, 1.2 * height * rows
	}
	return columns*width + legendWidth, rows * height
}

func (c *chart) draw(to draw.Canvas) {
	to.SetColor(color.White) // also where the page is dark
	to.Fill(to.Rectangle.Path())
	tiles := draw.Tiles{Rows: len(c.panels), Cols: len(c.panels[0]), PadX: 12, PadY: 12, PadLeft: 6, PadRight: 6, PadTop: 6, PadBottom: 6}
	for row, canvases := range plot.Align(c.panels, tiles, draw.Crop(to, 0, -legendWidth, 0, 0)) {
		for column, canvas := range canvases {
			c.panels[row][column].Draw(canvas)
		}
	}
	c.legend.Draw(draw.Crop(to, to.Max.X-to.Min.X-legendWidth, 0, 0, -12))
}

func (c *chart) svg() ([]byte, error) {
	canvas := vgsvg.New(c.size())
	c.draw(draw.New(canvas))
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, err
	}
	// Arial is as wide as Liberation Sans, which few readers have.
	return bytes.ReplaceAll(out.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif")), nil
}

// logarithmic makes an axis one of powers of ten, for the logarithms of values.
// Gonum's LogScale is for the values themselves, but makes room for the axis's name
// where it is not.
func logarithmic(axis *plot.Axis) { axis.Tick.Marker, axis.AutoRescale = powers{}, true }

type powers struct{}

func (powers) Ticks(low, high float64) (ticks []plot.Tick) {
	const inexact = 1e-9
	first, last := math.Floor(low+inexact), math.Ceil(high-inexact)
	for e := first; e <= last; e++ {
		ticks = append(ticks, plot.Tick{Value: e, Label: number(math.Pow10(int(e)))})
		for i := 2.0; i < 10 && e < last; i++ {
			ticks = append(ticks, plot.Tick{Value: e + math.Log10(i)})
		}
	}
	return ticks
}

// evenly are ticks at the multiples of a number.
type evenly float64

func (step evenly) Ticks(low, high float64) (ticks []plot.Tick) {
	for i := math.Ceil(low / float64(step)); i*float64(step) <= high; i++ {
		ticks = append(ticks, plot.Tick{Value: i * float64(step), Label: number(i * float64(step))})
	}
	return ticks
}
