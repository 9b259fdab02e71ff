package threshold

import (
	"context"

	"example.org/odometer"
)

func (t *Thresholds) Test(ctx context.Context, by odometer.Caller, d odometer.Threshold, from, to int64) (odometer.ThresholdTest, error) {
	return odometer.ThresholdTest{From: from, To: to}, nil
}
