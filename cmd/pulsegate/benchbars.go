package main

import "fmt"

// benchBar is something that the gateway is held to.
type benchBar struct {
	Name     string  `json:"name"`
	Required string  `json:"required"`
	Measured string  `json:"measured"`
	Figure   float64 `json:"figure"`
	Limit    float64 `json:"limit"`
	Floor    float64 `json:"floor,omitempty"` // what the floor reaches of it
	Met      bool    `json:"met"`
}

// atLeast is a bar that is met from a limit on.
func atLeast(name string, limit, figure float64) benchBar {
	return benchBar{Name: name, Required: fmt.Sprintf("at least %.2f", limit), Measured: fmt.Sprintf("%.2f", figure), Figure: figure, Limit: limit, Met: figure >= limit}
}

// atMost is a bar that is met up to a limit; a figure of 0 was not measured.
func atMost(name string, limit, figure float64) benchBar {
	return benchBar{Name: name, Required: fmt.Sprintf("at most %.2f", limit), Measured: fmt.Sprintf("%.2f", figure), Figure: figure, Limit: limit, Met: figure > 0 && figure <= limit}
}

// beside notes what the floor reaches; 0 when it was not measured.
func (b benchBar) beside(floor float64) benchBar {
	b.Floor = floor
	return b
}

// throughputBar is the least share of the relay's rate that a cell is held to; 0 for a cell without such a bar.
func throughputBar(cell string) float64 {
	return map[string]float64{"closed-1": 0.75, "closed-1000": 0.65}[cell]
}

// bars are those of what was measured.
func (b *benchReport) bars() []benchBar {
	var bars []benchBar
	for _, row := range b.Rows {
		name := fmt.Sprintf("throughput / relay, %s", row.Cell)
		switch limit := throughputBar(row.Cell); {
		case limit > 0:
			bars = append(bars, atLeast(name, limit, row.Ratio).beside(row.FloorRatio))
		case row.cell.kind == cellArray || row.cell.kind == cellNDJSON:
			bars = append(bars, atLeast(name, 1, row.Ratio))
		}
	}
	for _, row := range b.Rows {
		if limit := map[string]float64{"closed-1": 1.7, "closed-1000": 2.1}[row.Cell]; limit > 0 {
			bars = append(bars, atMost(fmt.Sprintf("CPU of gateway and Redis / relay, %s", row.Cell), limit, row.CPURatio).beside(row.FloorCPURatio))
		}
	}
	few, many := b.row("closed-100"), b.row("closed-10000")
	if few != nil && many != nil {
		bars = append(bars, atMost("CPU per event, 10,000 registrations / 100", 1.2, medianRatio(many.Gateway, few.Gateway, benchResult.path)))
	}
	for _, row := range b.Open {
		bars = append(bars, row.bars()...)
	}
	if b.Backlog != nil {
		bars = append(bars, b.Backlog.bar())
	}
	if b.Slow != nil {
		bars = append(bars, b.Slow.bars()...)
	}
	return bars
}

// row is the row of a cell; nil when it was not measured.
func (b *benchReport) row(cell string) *benchRow {
	for i := range b.Rows {
		if b.Rows[i].Cell == cell {
			return &b.Rows[i]
		}
	}
	return nil
}
