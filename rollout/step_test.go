package rollout_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/rollout"
)

// TestTheRateHoldsWhenTheClockGoesBack is also the case of two programs whose clocks
// differ: what the one that is ahead has used up lies in the future of the other.
func TestTheRateHoldsWhenTheClockGoesBack(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		all := n.fleet(20)
		told := func() (sum int) {
			for _, d := range all {
				sum += d.told()
			}
			return sum
		}
		n.begin(n.release("1.3.0"), func(d *rollout.Draft) { d.RatePerMinute = 60 })
		equal(t, "at once", told(), 2)
		n.later(-10 * time.Second)
		equal(t, "ten seconds earlier", told(), 2)
		n.later(10 * time.Second)
		equal(t, "at the same time again", told(), 2)
		n.later(time.Second)
		equal(t, "a second later", told(), 3)
		n.later(-24 * time.Hour)
		equal(t, "a day earlier: it does not stand still until then", told(), 4)
		n.later(time.Second)
		equal(t, "a second later than that", told(), 5)
	})
}

// TestCancellingAFleetIsManySmallTransactions: devices wait for their PUBACK behind each.
func TestCancellingAFleetIsManySmallTransactions(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		rollout.CancelIn(n.Service, 3)
		var all []*device
		for i := range 10 {
			all = append(all, n.enrol(i+1, ""))
		}
		ro := n.begin(n.release("1.3.0"))
		if _, err := n.Cancel(ctx, admin, ro.ID); err != nil {
			t.Fatal(err)
		}
		_, by := n.look(ro)
		equal(t, "at once", fmt.Sprint(by[rollout.StateCancel], by[rollout.Pending]), "3 7")
		all[9].up()
		n.step()
		_, by = n.look(ro)
		equal(t, "after a look", fmt.Sprint(by[rollout.StateCancel], by[rollout.Pending]), "10 0")
		equal(t, "told after the end", all[9].told(), 0)
	})
}

func TestAWithdrawnReleaseIsNotBroughtToMore(t *testing.T) {
	eachEngine(t, func(t *testing.T, n *node) {
		all := n.fleet(30)
		rel := n.release("1.3.0")
		ro := n.begin(rel, func(d *rollout.Draft) { d.Percent = 20 })
		for _, d := range all {
			if d.told() > 0 {
				d.updates()
			}
		}
		n.step()
		n.wantStatus(ro, rollout.Finished)
		if _, err := n.WithdrawRelease(ctx, admin, rel.ID); err != nil {
			t.Fatal(err)
		}
		_, err := n.SetSettings(ctx, admin, ro.ID, func(s *rollout.Settings) { s.Percent = 100 })
		is(t, "a larger share of what was withdrawn", err, rollout.ErrReleaseWithdrawn)
		n.step()
		for _, d := range all {
			if (d.told() > 0) != ro.Chosen(d.id) {
				t.Errorf("a device outside of the share was told %d times", d.told())
			}
		}
		n.wantStatus(ro, rollout.Finished)
	})
}
