//! The nouns of the engine, without IO: labels, matchers, samples, histograms, time.
