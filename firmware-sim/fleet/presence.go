package fleet

import (
	"context"
	"fmt"
	"time"
)

const presencePoll = 500 * time.Millisecond

// comparison is what one look into the registry showed.
type comparison struct {
	online int // devices of ours that the registry calls online
	wrong  int // devices whose flag is not what we know
	sample string
	err    error // the registry could not be read
}

// comparePresence reads the registry until it agrees with expected or Settle has passed: a disconnect takes a moment
// to be noticed. expected is asked after each reading.
func (f *Fleet) comparePresence(ctx context.Context, expected func(i int) bool) comparison {
	deadline := time.Now().Add(f.Settle)
	for {
		result := f.lookOnce(ctx, expected)
		if result.err == nil && result.wrong == 0 || time.Now().After(deadline) {
			return result
		}
		if !pause(ctx, presencePoll) {
			return result
		}
	}
}

func (f *Fleet) lookOnce(ctx context.Context, expected func(i int) bool) comparison {
	registry, err := f.API.Devices(ctx)
	if err != nil {
		return comparison{err: err}
	}
	var c comparison
	for i, id := range f.ids {
		got, known := registry[id.DeviceID]
		if got.Online {
			c.online++
		}
		if want := expected(i); got.Online != want || !known {
			c.wrong++
			if c.sample == "" {
				c.sample = fmt.Sprintf("%s: online %t, registry says %t (status %q, known %t)", id.DeviceID, want, got.Online, got.Status, known)
			}
		}
	}
	return c
}

// presenceVerdict turns the comparison of a scenario into its verdict; extra holds what else must be zero.
func (f *Fleet) presenceVerdict(ctx context.Context, expected func(i int) bool) Verdict {
	if f.API == nil {
		return Verdict{OK: true, Line: "wrong presence flags: unknown (no --api to compare with)"}
	}
	ctx, cancel := f.verdictContext(ctx)
	defer cancel()
	c := f.comparePresence(ctx, expected)
	if c.err != nil {
		return Verdict{Line: fmt.Sprintf("wrong presence flags: unknown, the registry cannot be read: %v", c.err)}
	}
	if c.wrong > 0 {
		f.note("first wrong flag: %s", c.sample)
	}
	return Verdict{OK: c.wrong == 0, Line: fmt.Sprintf("wrong presence flags: %d", c.wrong)}
}

// verdictContext is for a verdict, and made when that is due: it outlives the interrupt that asked for the end, but not
// for ever.
func (f *Fleet) verdictContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 2*f.Settle+time.Minute)
}
