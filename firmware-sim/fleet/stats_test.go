package fleet_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/fleet"
)

func TestHistogram(t *testing.T) {
	t.Run("quantiles are right to 7 percent", func(t *testing.T) {
		var h fleet.Histogram
		for us := 1; us <= 100_000; us++ {
			h.Record(time.Duration(us) * time.Microsecond)
		}
		for q, want := range map[float64]float64{0.01: 1_000, 0.5: 50_000, 0.99: 99_000, 1: 100_000} {
			if got := float64(h.Quantile(q).Microseconds()); math.Abs(got-want)/want > 0.07 {
				t.Errorf("quantile %g is %g us, want %g", q, got, want)
			}
		}
		if h.Max() != 100*time.Millisecond || h.Count() != 100_000 {
			t.Errorf("max %s, count %d", h.Max(), h.Count())
		}
	})
	t.Run("nothing, one, and what no bucket holds", func(t *testing.T) {
		var h fleet.Histogram
		if h.Quantile(0.5) != 0 || h.Max() != 0 {
			t.Error("an empty one is not zero")
		}
		h.Record(-time.Second)
		if h.Quantile(0.99) != 0 {
			t.Error("a negative one is not zero")
		}
		h.Record(1000 * 24 * time.Hour)
		if h.Quantile(1) <= 0 || h.Max() != 1000*24*time.Hour {
			t.Errorf("quantile %s, max %s", h.Quantile(1), h.Max())
		}
	})
}

func TestErrorsAreCountedByKindWithTheFirstText(t *testing.T) {
	var s fleet.Stats
	if counts, _ := s.Errors(); counts == nil || len(counts) != 0 {
		t.Errorf("at first %v", counts)
	}
	s.Fail("timeout", nil)
	s.Fail("timeout", errors.New("first"))
	s.Fail("timeout", errors.New("second"))
	s.Fail("other", nil)
	counts, samples := s.Errors()
	if counts["timeout"] != 3 || counts["other"] != 1 || samples["timeout"] != "first" || s.ErrorCount() != 4 {
		t.Errorf("counts %v, samples %v", counts, samples)
	}
}
