package audit

import (
	"encoding/binary"
	"slices"

	"example.org/odometer"
)

// balance compares two lists of amounts that are met in different orders: what
// the journal books is added, what a table says is taken away, and in the end
// every key must be level. Levelled keys cost memory only until the balance is
// put aside; beyond maxKeys it goes to disk.
type balance struct {
	maxKeys int
	keys    map[string]*amount
	aside   spill
	spilled bool
}

// amount is one side minus the other. Sums wrap around in 64 bits: they are
// level exactly when both sides agree.
type amount struct {
	sum       [odometer.Quantities]int64
	recovered int64
	known     [2]odometer.Known // of the two sides
}

func newBalance(o *Options) *balance {
	return &balance{maxKeys: o.maxKeys, keys: map[string]*amount{}, aside: spill{dir: o.TempDir, limit: o.maxBytes}}
}

// put adds usage to key: booked for what the journal says, otherwise for
// what a table says.
func (b *balance) put(key []byte, booked bool, u *odometer.Usage, recovered int64) error {
	a := b.keys[string(key)]
	if a == nil {
		if len(b.keys) >= b.maxKeys {
			if err := b.putAside(); err != nil {
				return err
			}
		}
		a = new(amount)
		b.keys[string(key)] = a
	}
	side, sign := 0, int64(1)
	if !booked {
		side, sign = 1, -1
	}
	for q, n := range u.Vector {
		a.sum[q] += sign * n
	}
	a.recovered += sign * recovered
	a.known[side] |= u.Known
	return nil
}

func (b *balance) putAside() error {
	b.spilled = true
	var rec []byte
	for key, a := range b.keys {
		rec = binary.AppendUvarint(rec[:0], uint64(len(key)))
		rec = append(rec, key...)
		for _, n := range a.sum {
			rec = binary.AppendVarint(rec, n)
		}
		rec = binary.AppendVarint(rec, a.recovered)
		rec = binary.AppendUvarint(rec, uint64(a.known[0]))
		rec = binary.AppendUvarint(rec, uint64(a.known[1]))
		if err := b.aside.add(hashKey(key), rec); err != nil {
			return err
		}
	}
	clear(b.keys)
	return nil
}

// settle calls uneven for every key whose two sides differ, in the order of
// the keys within a bucket, and empties the balance.
func (b *balance) settle(uneven func(key string, a *amount)) error {
	defer b.aside.close()
	if !b.spilled {
		b.report(uneven)
		return nil
	}
	if err := b.putAside(); err != nil {
		return err
	}
	for i := range spillBuckets {
		err := b.aside.bucket(i, func(rec []byte) error {
			n, w := binary.Uvarint(rec)
			key := string(rec[w : w+int(n)])
			rec = rec[w+int(n):]
			a := b.keys[key]
			if a == nil {
				a = new(amount)
				b.keys[key] = a
			}
			next := func() int64 {
				v, w := binary.Varint(rec)
				rec = rec[w:]
				return v
			}
			for q := range a.sum {
				a.sum[q] += next()
			}
			a.recovered += next()
			for side := range a.known {
				k, w := binary.Uvarint(rec)
				rec = rec[w:]
				a.known[side] |= odometer.Known(k)
			}
			return nil
		})
		if err != nil {
			return err
		}
		b.report(uneven)
	}
	return nil
}

func (b *balance) report(uneven func(string, *amount)) {
	var keys []string
	for key, a := range b.keys {
		if *a != (amount{known: [2]odometer.Known{a.known[0], a.known[0]}}) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		uneven(key, b.keys[key])
	}
	clear(b.keys)
}

// hashKey spreads keys over the buckets of a spill (FNV-1a, folded).
func hashKey(key string) byte {
	h := uint32(2166136261)
	for i := range len(key) {
		h = (h ^ uint32(key[i])) * 16777619
	}
	return byte(h ^ h>>8 ^ h>>16)
}
