package fleet

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// Display shows a run while it lasts: bars and one rewritten line on a terminal, a plain line now and then elsewhere.
type Display struct {
	w        io.Writer
	terminal bool

	mu   sync.Mutex
	line bool // the cursor stands behind a line that the next output must end
}

const (
	redraw    = 250 * time.Millisecond
	plainLine = 5 * time.Second
)

// NewDisplay writes to w, which is a terminal or not.
func NewDisplay(w io.Writer, terminal bool) *Display { return &Display{w: w, terminal: terminal} }

// Say prints a line of its own.
func (d *Display) Say(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.endLine()
	// The display is a courtesy: a closed stderr must not end the run.
	_, _ = fmt.Fprintf(d.w, format+"\n", args...)
}

func (d *Display) endLine() {
	if d.line {
		_, _ = fmt.Fprintln(d.w)
		d.line = false
	}
}

// Bar starts a progress bar; the returned functions move and finish it.
func (d *Display) Bar(name string, total int) (set func(done int), finish func()) {
	if !d.terminal {
		last := time.Now()
		set = func(done int) {
			if time.Since(last) >= plainLine {
				last = time.Now()
				d.Say("%s: %d/%d", name, done, total)
			}
		}
		return set, func() {}
	}
	d.mu.Lock()
	d.endLine()
	d.mu.Unlock()
	bar := progressbar.NewOptions(total,
		progressbar.OptionSetWriter(d.w),
		progressbar.OptionSetDescription(fmt.Sprintf("%-10s", name)),
		progressbar.OptionSetWidth(30),
		progressbar.OptionShowCount(),
		progressbar.OptionSetElapsedTime(true),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionThrottle(redraw/2),
		progressbar.OptionUseANSICodes(true),
	)
	set = func(done int) { _ = bar.Set(min(done, total)) }
	// Exit, not Finish: a phase that ended early must not show a full bar.
	return set, func() {
		_ = bar.Exit()
		_, _ = fmt.Fprintln(d.w)
	}
}

// Watch shows text() until the context ends.
func (d *Display) Watch(ctx context.Context, text func() string) {
	every := plainLine
	if d.terminal {
		every = redraw
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			d.mu.Lock()
			d.endLine()
			d.mu.Unlock()
			return
		case <-ticker.C:
		}
		if !d.terminal {
			d.Say("%s", text())
			continue
		}
		d.mu.Lock()
		_, _ = fmt.Fprintf(d.w, "\r\033[K%s", text())
		d.line = true
		d.mu.Unlock()
	}
}
