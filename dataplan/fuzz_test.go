package dataplan_test

import (
	"testing"

	"github.com/opticworks/devicecloud/dataplan"
)

func FuzzParsePlans(f *testing.F) {
	f.Add([]byte(`{"plans":[{"id":"a","name":"A","amount":100,"currency":"eur","carrier_package":"P"}]}`))
	f.Add([]byte(`{"plans":[{"id":"a","mode":"subscription","interval":"month"}]}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, text []byte) {
		plans, err := dataplan.ParsePlans(text)
		for _, p := range plans {
			if err == nil && (p.Amount < 1 || len(p.Currency) != 3 || p.ID == "") {
				t.Errorf("taken: %+v", p)
			}
		}
	})
}
